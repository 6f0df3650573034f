"""Classify a video with an exported model, without vtcli and PyTorch.

    vt convert videoswin-nano.motion8 --to onnx -o nano.onnx
    python examples/onnx_only.py nano.onnx clip.mp4

Needs onnxruntime, numpy, av (PyAV) and pillow. The exported file states its preprocessing and its
labels in the metadata entry `vt`, as JSON. This program follows the rules that the models of the
package use and refuses others; `vtcli/video/` has all of them.
Shapes: N decoded frames, T frames of a clip, H height, W width, S crop size, K classes.
"""

from __future__ import annotations

import json
import sys

import av
import numpy as np
import onnxruntime
from PIL import Image

SUPPORTED = {
    "sampling": "dense_loop_endpoints",
    "resize": "pillow_bilinear",
    "crop_offset": "floor",
    "normalize": "scaled",
    "channel_order": "rgb",
}


def decode(path: str) -> np.ndarray:
    """All frames in presentation order: uint8 [N, H, W, 3]."""
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def sample(num_frames: int, length: int, stride: int) -> np.ndarray:
    """Frame numbers [T] of the center clip; a video that is too short is repeated."""
    start = max(num_frames - ((length - 1) * stride + 1), 0) // 2
    return (start + stride * np.arange(length)) % num_frames


def resize(frame_HW3: np.ndarray, short_side: int) -> np.ndarray:
    """Resize the short side with Pillow's bilinear filter; the long side is rounded down."""
    height, width = frame_HW3.shape[:2]
    short = min(height, width)
    size = (width * short_side // short, height * short_side // short)
    return np.asarray(Image.fromarray(frame_HW3).resize(size, Image.Resampling.BILINEAR))


def center_crop(frame_HW3: np.ndarray, size: int) -> np.ndarray:
    """The central square."""
    top, left = ((side - size) // 2 for side in frame_HW3.shape[:2])
    return frame_HW3[top : top + size, left : left + size]


def preprocess(frames_NHW3: np.ndarray, pipeline: dict) -> np.ndarray:
    """The clip that the model was tested with: float32 [1, 3, T, S, S].

    Raises `ValueError` for a rule that this program does not know.
    """
    for name, value in SUPPORTED.items():
        if pipeline[name] != value:
            raise ValueError(f"this program has no {name} rule '{pipeline[name]}'")
    numbers = sample(len(frames_NHW3), pipeline["frames"], pipeline["stride"])
    resized = (resize(frames_NHW3[number], pipeline["short_side"]) for number in numbers)
    clip_TSS3 = np.stack([center_crop(frame, pipeline["crop_size"]) for frame in resized])
    scaled_TSS3 = clip_TSS3.astype(np.float32) / np.float32(255)
    mean, std = (np.array(pipeline[name], dtype=np.float32) for name in ("mean", "std"))
    return ((scaled_TSS3 - mean) / std).transpose(3, 0, 1, 2)[None]


def classify(model: str, video: str) -> dict[str, float]:
    """The probability of each class, most likely first."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    card = json.loads(session.get_modelmeta().custom_metadata_map["vt"])
    clip = np.ascontiguousarray(preprocess(decode(video), card["pipeline"]))
    logits_K = session.run(None, {"clip": clip})[0][0].astype(np.float64)
    scores_K = np.exp(logits_K - logits_K.max())
    scores_K /= scores_K.sum()
    order = np.argsort(-scores_K)
    return {card["heads"][0]["labels"][k]: float(scores_K[k]) for k in order}


if __name__ == "__main__":
    for label, score in list(classify(*sys.argv[1:3]).items())[:5]:
        print(f"{100 * score:6.1f} %  {label}")
