"""X-ViT: an image transformer with space-time mixing attention (arXiv 2106.05968)."""

from vtcli.models import Architecture
from vtcli.models.xvit.checkpoints import LAYOUTS, init_from_image_model
from vtcli.models.xvit.configs import PRESETS, infer_config, published_macs
from vtcli.models.xvit.model import XViT
from vtcli.models.xvit.recipe import RECIPES

ARCHITECTURE = Architecture(
    name="xvit",
    title="X-ViT",
    presets=PRESETS,
    build=XViT,
    infer_config=infer_config,
    published_macs=published_macs,
    layouts=LAYOUTS,
    variable_fields=("temporal_positions",),
    init_from_image_model=init_from_image_model,
    recipes=RECIPES,
)
