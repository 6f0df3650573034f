"""Video Swin Transformer: attention in shifted space-time windows (arXiv 2106.13230)."""

from vtcli.models import Architecture
from vtcli.models.videoswin.checkpoints import (
    LAYOUTS,
    init_from_image_model,
    read_torchvision_config,
)
from vtcli.models.videoswin.configs import PRESETS, infer_config, published_macs
from vtcli.models.videoswin.model import VideoSwin
from vtcli.models.videoswin.recipe import RECIPES

ARCHITECTURE = Architecture(
    name="videoswin",
    title="Video Swin",
    presets=PRESETS,
    build=VideoSwin,
    infer_config=infer_config,
    published_macs=published_macs,
    layouts=LAYOUTS,
    read_library_config=read_torchvision_config,
    init_from_image_model=init_from_image_model,
    recipes=RECIPES,
)
