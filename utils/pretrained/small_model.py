"""Small models of our own, as save_pretrained left them in the model/ of a run folder."""

from pathlib import Path

from safetensors import SafetensorError

from utils.cli import UserError, printable
from utils.tensors import require_numbers


def load_small(kind, folder: Path, flag: str, maker: str):
    """(the model, in evaluation mode; where it lies). kind: its class, a ModelMixin; folder: of the run, or its model/.
    Raises UserError, which names the flag and the script that makes one, for a folder without it."""
    folder = folder / "model" if (folder / "model").is_dir() else folder
    try:
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        require_numbers(model.state_dict())
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--{flag}: {printable(folder)} cannot be used ({reason}); {maker} makes one") from None
    return model, folder
