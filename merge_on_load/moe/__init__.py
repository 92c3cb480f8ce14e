"""Mixture-of-Experts models, assembled from dense ones of one shape: mergekit-moe's YAML.

Attention, norms, embeddings and head are the base model's; each expert of a layer is the MLP of a
dense model (sparse upcycling: Komatsuzaki et al. 2023, arXiv:2212.05055). The form of the recipe:
https://github.com/arcee-ai/mergekit/blob/main/docs/moe.md

    recipe = MoeRecipe.model_validate(document)
    plan = make_moe_plan(recipe, sources, file, seed=0)     # headers only
"""

from merge_on_load.moe.document import Expert, MoeRecipe, SharedExpert
from merge_on_load.moe.plan import make_moe_plan

__all__ = ["Expert", "MoeRecipe", "SharedExpert", "make_moe_plan"]
