"""Videos one behind the other in one file, as they are encoded."""

from collections.abc import Sequence
from pathlib import Path

import av

from utils.decoding.probe import probe_video
from utils.decoding.video_info import VideoError
from utils.video.encode import atomic


def join_videos(paths: Sequence[Path], path: Path) -> None:
    """Write the frames of several videos, each from a key frame on, as one; nothing is encoded again.

    The videos are those of one encoder and one setting, as write_video writes them; sound is left out. Raises
    ValueError for others, OSError if the file cannot be written in full.
    """
    frames = 0
    with atomic(path) as temporary:
        with av.open(temporary, "w", options={"movflags": "+faststart"}) as container:
            target, about = None, None
            for each in paths:
                with av.open(str(each)) as source:
                    stream = source.streams.video[0]
                    context = stream.codec_context
                    found = context.name, context.extradata, context.width, context.height, stream.average_rate
                    if about is None:
                        target, about = container.add_stream_from_template(stream), found
                    if found != about:
                        raise ValueError(f"{each.name} is of another encoder, size or rate than {paths[0].name}")
                    tick = int(1 / (stream.average_rate * stream.time_base))
                    for packet in source.demux(stream):
                        if packet.dts is None:  # the end
                            continue
                        packet.pts += frames * tick
                        packet.dts += frames * tick
                        packet.stream = target
                        container.mux(packet)
                    frames += stream.frames
        info = probe_video(temporary)
        if info.frames != frames:
            raise VideoError(f"only {info.frames} of {frames} frames can be read back; is the disk full?")
