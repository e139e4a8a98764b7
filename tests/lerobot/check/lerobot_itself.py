"""lerobot opens a dataset of ours, iterates it, and trains ten steps on it; run by a Python that has lerobot.

`make lerobot-check` runs it on what tests/lerobot/check/write.py wrote, whose frames it knows; given the folder of
another dataset, it does all else with that.
"""

import re
import sys
from pathlib import Path

import torch


def import_torchvision() -> None:
    """Also where its operators are built for another torch than this one, as on a CPU: none of them is needed here."""
    while True:
        try:
            import torchvision  # noqa: F401

            return
        except RuntimeError as error:
            torch.library.define(re.search(r"torchvision::\w+", str(error))[0], "(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]


def main(root: Path) -> None:
    import_torchvision()
    from lerobot.configs import FeatureType
    from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata
    from lerobot.policies import make_pre_post_processors
    from lerobot.policies.act import ACTConfig, ACTPolicy
    from lerobot.utils.feature_utils import dataset_to_policy_features

    meta = LeRobotDatasetMetadata("made/here", root=root)
    plain = LeRobotDataset("made/here", root=root, video_backend="pyav")
    assert len(plain) == meta.total_frames == sum(meta.episodes["length"]), "frames"
    known = meta.robot_type == "toy"
    seen, items = {}, [plain[n] for n in range(len(plain))]
    for n, item in enumerate(items):
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        assert int(item["index"]) == n and abs(float(item["timestamp"]) - frame / meta.fps) < 1e-6, "columns"
        seen.setdefault(episode, []).append(item["task"])
        for camera in meta.camera_keys:
            picture = item[camera]
            assert picture.shape[0] == 3 and picture.min() >= 0 and picture.max() <= 1, camera
            if not known:
                continue
            corner = round(float(picture[:, -1, -1].mean()) * 255)  # grey, another for each episode
            assert abs(corner - (40 + 40 * episode)) < 4, f"{camera}: a frame of another episode"
    assert [len(set(tasks)) for tasks in seen.values()] == [1] * meta.total_episodes, "tasks"
    print(f"{len(items)} frames of {len(seen)} episodes: {', '.join(items[0])}")

    features = dataset_to_policy_features(meta.features)
    outputs = {name: each for name, each in features.items() if each.type is FeatureType.ACTION}
    inputs = {name: each for name, each in features.items() if name not in outputs and name in meta.camera_keys[:1]}
    inputs |= {name: each for name, each in features.items() if name == "observation.state"}
    assert list(outputs) == ["action"], f"columns that pass for actions: {list(outputs)}"
    settings = {"dim_model": 32, "dim_feedforward": 64, "n_heads": 2, "n_encoder_layers": 1, "n_vae_encoder_layers": 1}
    config = ACTConfig(
        input_features=inputs,
        output_features=outputs,
        chunk_size=4,
        n_action_steps=4,
        pretrained_backbone_weights=None,
        device="cpu",
        **settings,
    )
    policy = ACTPolicy(config).train()
    prepare, _ = make_pre_post_processors(config, dataset_stats=meta.stats)
    times = {"action": [n / meta.fps for n in config.action_delta_indices]}
    chunks = LeRobotDataset("made/here", root=root, delta_timestamps=times, video_backend="pyav")
    loader = torch.utils.data.DataLoader(chunks, batch_size=8, shuffle=True, drop_last=True)
    optimizer, losses = torch.optim.AdamW(policy.parameters(), lr=1e-3), []
    while len(losses) < 10:
        for batch in loader:
            loss, _ = policy.forward(prepare(batch))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) == 10:
                break
    assert all(map(torch.isfinite, map(torch.tensor, losses))), losses
    assert losses[-1] < losses[0] or not known, losses
    print(f"ten steps of ACT: loss {losses[0]:.2f} to {losses[-1]:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
