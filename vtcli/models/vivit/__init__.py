"""ViViT: pure transformers over the tubelets of a clip (arXiv 2103.15691)."""

from vtcli.models import Architecture
from vtcli.models.vivit.checkpoints import LAYOUTS, initialise
from vtcli.models.vivit.configs import PRESETS, infer_config, published_macs
from vtcli.models.vivit.model import ViViT

ARCHITECTURE = Architecture(
    name="vivit",
    title="ViViT",
    presets=PRESETS,
    build=ViViT,
    infer_config=infer_config,
    published_macs=published_macs,
    layouts=LAYOUTS,
    decided_by_file=("temporal_depth",),
    initialise=initialise,
)
