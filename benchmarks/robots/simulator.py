"""A simulated arm on a table: tasks of Meta-World (Yu et al. 2019, arXiv:1910.10897) in MuJoCo, drawn without a screen.

Needs `pip install -r benchmarks/robots/requirements.txt` and a renderer: a GPU's EGL, or `apt install libosmesa6`.
"""

import os
import warnings
from typing import NamedTuple, Protocol

import numpy as np

from utils.cli import UserError

# What is to be done, in words, by the name in Meta-World without its version.
TASKS = {
    "reach": "reach the red mark",
    "push": "push the puck to the green mark",
    "button-press-topdown": "press the red button from above",
    "drawer-open": "open the drawer",
    "window-open": "open the window",
}
STATE = ("x", "y", "z", "opening")  # of the gripper: metres, and how far it is open, 0 to 1
ACTION = ("dx", "dy", "dz", "close")  # each in [-1, 1]; the first three move the gripper, up to 1 cm a step
THING = slice(4, 7)  # of an observation: where that is
STEPS_PER_SECOND = 80
REQUIREMENTS = "pip install -r benchmarks/robots/requirements.txt"


class Step(NamedTuple):
    """state (4,), see STATE; success: whether the task is done at this moment."""

    state: np.ndarray
    success: bool


class Simulator(Protocol):
    """One task. Each seed is a place of the things on the table."""

    def reset(self, seed: int) -> Step: ...

    def step(self, action: np.ndarray) -> Step: ...

    def expert(self, off: np.ndarray | float = 0.0) -> np.ndarray:
        """What the scripted expert would do now, (4,) in [-1, 1], if it saw the thing that it is to touch off by (3,)
        metres."""

    def picture(self) -> np.ndarray:
        """uint8 RGB (size, size, 3)."""

    def close(self) -> None: ...


class MetaWorld:
    """A Simulator. action_repeat: steps for which an action holds. Raises UserError if it is not installed.

    Drawn by MuJoCo's own renderer without shadows and with one sample a pixel: 8 ms a picture of 64x64 without a GPU
    where gymnasium's takes 125; and from nearer than Meta-World's own cameras, from which a goal is one pixel.
    """

    def __init__(self, task: str, size: int, action_repeat: int = 2):
        os.environ.setdefault("MUJOCO_GL", "egl" if os.path.exists("/dev/nvidia0") else "osmesa")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import gymnasium
                import metaworld  # noqa: F401  (makes its tasks known)
                import mujoco
                from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise UserError(f"the simulator is not installed ({error}): {REQUIREMENTS}") from None
        name = f"{task}-v3"
        wrapped = gymnasium.make("Meta-World/MT1", env_name=name, disable_env_checker=True)
        wrapped.reset()
        # Its wrapper draws one of 50 places at each reset, whatever the seed; without it every seed is a place.
        self.environment = wrapped.unwrapped
        self.environment.seeded_rand_vec, self.environment._freeze_rand_vec = True, False
        self.action_repeat, self.policy_class = action_repeat, ENV_POLICY_MAP[name]
        self.mujoco, self.data = mujoco, self.environment.data
        self.environment.model.vis.quality.offsamples = 0
        try:
            self.renderer = mujoco.Renderer(self.environment.model, size, size)
        except Exception as error:  # each library of OpenGL has its own
            raise UserError(
                f"MuJoCo cannot draw ({' '.join(str(error).split())[:100]}): apt install libosmesa6, or MUJOCO_GL=egl"
            ) from None
        self.camera = mujoco.MjvCamera()
        self.camera.lookat[:] = 0, 0.68, 0.14
        self.camera.distance, self.camera.azimuth, self.camera.elevation = 1.2, 130, -35

    def reset(self, seed: int) -> Step:
        self.policy = self.policy_class()
        self.environment.seed(seed)
        self.observation, _ = self.environment.reset()
        return Step(self._state(), False)

    def step(self, action: np.ndarray) -> Step:
        success = False
        for _ in range(self.action_repeat):
            self.observation, _, _, _, info = self.environment.step(np.asarray(action, np.float32))
            success = success or bool(info["success"])
        return Step(self._state(), success)

    def expert(self, off: np.ndarray | float = 0.0) -> np.ndarray:
        seen = self.observation.copy()
        seen[THING] += off
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that what it wants is clipped
            return np.clip(self.policy.get_action(seen), -1, 1).astype(np.float32)

    def picture(self) -> np.ndarray:
        self.renderer.update_scene(self.data, camera=self.camera)
        for flag in (self.mujoco.mjtRndFlag.mjRND_SHADOW, self.mujoco.mjtRndFlag.mjRND_REFLECTION):
            self.renderer.scene.flags[flag] = 0
        return self.renderer.render().copy()

    def close(self) -> None:
        self.renderer.close()
        self.environment.close()

    def _state(self) -> np.ndarray:
        return self.observation[:4].astype(np.float32)
