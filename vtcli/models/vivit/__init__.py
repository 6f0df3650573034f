"""ViViT: pure transformers over the tubelets of a clip (arXiv 2103.15691)."""

from vtcli.models import Architecture
from vtcli.models.vivit.checkpoints import LAYOUTS, read_hf_config
from vtcli.models.vivit.configs import PRESETS, infer_config, published_macs, require_stated
from vtcli.models.vivit.image_init import init_from_image_model
from vtcli.models.vivit.model import ViViT
from vtcli.models.vivit.positions import resize_over_time
from vtcli.models.vivit.recipe import RECIPES

ARCHITECTURE = Architecture(
    name="vivit",
    title="ViViT",
    presets=PRESETS,
    build=ViViT,
    infer_config=infer_config,
    published_macs=published_macs,
    layouts=LAYOUTS,
    variable_fields=("temporal_depth",),
    unseen_fields=(
        *("num_frames", "image_size", "num_heads", "layer_norm_eps", "activation"),
        *("sampled_frames", "attention_order", "heads"),
    ),
    read_library_config=read_hf_config,
    require_stated=require_stated,
    init_from_image_model=init_from_image_model,
    resize_over_time=resize_over_time,
    recipes=RECIPES,
)
