"""One vocabulary for models that have several: the tokenizer, and every model's rows in it.

    vocabulary = make_vocabulary(recipe.vocabulary, recipe.base_model, models)
    sources = {one: vocabulary.revised(one, source) for one, source in models.items()}

A model's token embeddings and head have a row for each token. Before models are merged, those
matrices are rearranged so that row i is the same token's in all of them.

What a recipe says of it, https://github.com/arcee-ai/mergekit#tokenizer-configuration.
"""

from merge_on_load.vocabulary.chat import chat_template_files
from merge_on_load.vocabulary.vocabulary import Vocabulary, make_vocabulary

__all__ = ["Vocabulary", "chat_template_files", "make_vocabulary"]
