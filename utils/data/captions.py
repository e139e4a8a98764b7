"""Captions: files that hold them, and what a mirror does to their words."""

import codecs
import re
from pathlib import Path

from utils.cli import printable
from utils.data.errors import CaptionError, DataError

MAX_CAPTION_BYTES = 64 * 1024


def check_encoding(encoding: str) -> None:
    """Raises DataError if Python knows no such text encoding."""
    try:
        b"a".decode(encoding)
    except LookupError:
        raise DataError(f"caption_encoding: Python knows no text encoding {encoding!r}") from None
    except UnicodeError:  # a known encoding in which one byte is no text
        pass


def read_caption(path: Path, encoding: str = "utf-8-sig") -> str:
    """The file's text on one line: lines and runs of blanks become one space, NUL and byte order marks vanish.

    A byte order mark overrides `encoding`. Raises CaptionError naming file, byte and remedy.
    """
    return one_line(decoded(path, encoding))


def one_line(text: str) -> str:
    return " ".join(text.replace("\0", "").split())


def decoded(path: Path, encoding: str) -> str:
    """A file's text; a byte order mark overrides `encoding`. Raises CaptionError naming file, byte and remedy."""
    return decode_caption(path.read_bytes(), printable(path), encoding)


def decode_caption(data: bytes, file: str, encoding: str) -> str:
    """The same of bytes; `file` is how the message calls them."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        where = getattr(error, "start", 0)
        name = "UTF-8" if encoding == "utf-8-sig" else encoding
        remedy = "the encoding it was written in" if encoding == "gb18030" else "gb18030, or whatever it was written in"
        raise CaptionError(
            f"{file}: byte {where} (0x{data[where]:02x}) is not {name} text; "
            f"save it as UTF-8 or pass --caption_encoding {remedy}"
        ) from None


# What a mirror does to words. (?<![A-Za-z]) rather than \b, so that the "left" of left_arrow is a word as well.
MIRRORED = {"left": "right", "leftward": "rightward", "leftwards": "rightwards", "leftmost": "rightmost"}
MIRRORED |= {right: left for left, right in MIRRORED.items()}
MIRRORED |= {f"{start}clockwise": "clockwise" for start in ("counter", "anti", "counter-", "anti-")}
MIRRORED |= {"clockwise": "counterclockwise", "左": "右", "右": "左", "顺时针": "逆时针", "逆时针": "顺时针"}
MIRRORED_WORD = re.compile(
    r"(?<![A-Za-z])(?:(?:counter|anti)-?clockwise|clockwise|(?:left|right)(?:wards?|most)?)(?![A-Za-z])|[左右]|[顺逆]时针",
    re.IGNORECASE,
)
# Captions that no exchange of words keeps true: "left" or "right" in another sense, or writing in the picture. Too wide
# on purpose: a clip that is not flipped costs little, a false caption teaches a falsehood.
NOT_MIRRORED = re.compile(
    r"""(?<![A-Za-z])(?:
        right\s+(?:away|now|after|before|behind|here|there|next|above|below|beside|under|over|on|in|into|through|at|by
            |as|when|where|from|back|off|out|down|up|along|across|against|angles?|angled|triangles?|click|way|one|time
            |place|moment|answer|choice|person|amount|thing)
        | right-(?:angled?|click|wing\w*) | left-wing\w*
        | (?:all|just|that's|that’s|is|are|was|were|be|been|human|civil|animal|equal|get|got|do|does|doing)\s+right
        | rights | leaves | leaving
        | left\s+(?:behind|alone|over|open|out|off|on|in|by|for|with|without|after|before|when|unattended|the|a|an|his
            |her|its|their|my|your|our|to\s+(?!right)\w+\s+(?:\w+\s+)?(?:own|themselves|itself|himself|herself))
        | (?:have|has|had|having|just|is|are|was|were|be|been|being|get|gets|got|he|she|they|who|nothing|none|few|little
            |much|many|time|minutes?|seconds?|hours?|days?|only|\d+)\s+left
        | texts? | signs? | signage | signposts? | signboards? | signatures? | letters? | lettering | words? | numbers?
        | numerals? | digits? | logos? | writing | writes? | written | wrote | handwriting | inscriptions? | inscribed
        | captions? | captioned | subtitles? | subtitled | titles? | titled | labels? | labell?ed | posters? | banners?
        | billboards? | newspapers? | scoreboards? | graffiti | alphabets? | fonts? | watermarks? | barcodes?
        | qr\s+codes? | says? | saying | reads? | spells? | spelling | (?:license|licence|number)\s+plates? | clocks?
        | clock-?faces? | wristwatch(?:es)? | calendars? | maps? | keyboards? | menus?
        | gauche | droite | izquierd[ao]s? | derech[ao]s? | links | rechts | sinistra | destra | esquerd[ao]
        | direit[ao]
        )(?![A-Za-z])
        | ["“”「」『』《》] | 左右 | [字钟鐘表写寫時计計] | 时针(?<![顺逆]时针) | 标志 | 標誌 | 招牌 | 标语 | 车牌
        | 車牌 | 商标 | 路牌 | 地图 | 왼 | 오른 | лев | прав | слева | справа | влево | вправо""",
    re.IGNORECASE | re.VERBOSE,
)


def swap_left_right(text: str) -> str | None:
    """The caption of the mirrored video, or None if there is none that is surely true.

    left and right (leftwards, rightmost, left-hand ...), clockwise and counterclockwise, 左 and 右 change places and
    keep their capitals.
    """
    if NOT_MIRRORED.search(text):
        return None

    def mirror(match: re.Match) -> str:
        word = match.group()
        other = MIRRORED[word.lower()]
        return other.upper() if len(word) > 1 and word.isupper() else other.capitalize() if word[0].isupper() else other

    return MIRRORED_WORD.sub(mirror, text)
