"""UniFormerV2: CLIP's image transformer with local and global blocks (arXiv 2211.09552)."""

from vtcli.models import Architecture
from vtcli.models.uniformerv2.checkpoints import LAYOUTS, init_from_image_model
from vtcli.models.uniformerv2.configs import PRESETS, infer_config, published_macs
from vtcli.models.uniformerv2.model import UniFormerV2
from vtcli.models.uniformerv2.recipe import RECIPES

ARCHITECTURE = Architecture(
    name="uniformerv2",
    title="UniFormerV2",
    presets=PRESETS,
    build=UniFormerV2,
    infer_config=infer_config,
    published_macs=published_macs,
    layouts=LAYOUTS,
    init_from_image_model=init_from_image_model,
    recipes=RECIPES,
)
