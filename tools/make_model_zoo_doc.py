"""Write docs/MODEL_ZOO.md and the headers of the recipes from mask_former/model_zoo.json.

python -m tools.make_model_zoo_doc
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mask_former import model_zoo

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs" / "MODEL_ZOO.md"
NOTHING = "–"

# Metrics and costs of the table -> heading and format.
METRICS = {
    "PQ": ("PQ", "{:.1f}"),
    "AP": ("AP", "{:.1f}"),
    "boundary_AP": ("boundary AP", "{:.1f}"),
    "mIoU": ("mIoU", "{:.1f}"),
    "mIoU_multi_scale_flip": ("mIoU, multi-scale and flip", "{:.1f}"),
}
COSTS = {
    "params_million": ("parameters (M)", "{:g}"),
    "gflops_macs_at_crop_size": ("multiply-adds (G)", "{:.0f}"),
    "train_memory_mb_v100": ("training memory (MB)", "{:.0f}"),
}

INTRO = """\
# Model zoo

<!-- Made by `python -m tools.make_model_zoo_doc` from mask_former/model_zoo.json: edit that. -->

The models of these papers, with the weights that their authors published:

{papers}

**Licence.** That of the weights stands beside each paper: NC is for non-commercial use, and "of the
repository" says that nothing else is printed for the weights. They are not part of this repository;
they are downloaded from their authors when you ask for them. The code and the recipes here are
Apache-2.0.

**Metrics.** The values under "published" are the papers' authors': of their code, with these
weights, on the validation images (test images for COCO-Stuff-10K). mIoU, PQ and AP (of masks; on
Cityscapes its own AP) are in percent, training memory is per GPU on V100, multiply-adds are at the
size of the training crops. The values under "measured" are ours, of this repository's code with
the same weights. {measured}

```python
from mask_former import model_zoo

cfg = model_zoo.get_config("ade20k-150/maskformer_R50_bs16_160k")
model = model_zoo.get("ade20k-150/maskformer_R50_bs16_160k", trained=True).eval()
```

On the command line:

```sh
python train_net.py --eval-only \\
    --config-file configs/ade20k-150/maskformer_R50_bs16_160k.yaml \\
    MODEL.WEIGHTS {example}
```

Every recipe's header states the command that trains it. The batch size is the number after `bs`, or
`SOLVER.IMS_PER_BATCH`, over 8 GPUs; MaskFormer's recipes on COCO take 8 machines of 8, and
Mask2Former's with Swin-L two.
"""

INITIAL = """\
## What the trainings start from

Backbones trained on ImageNet. ResNet-50 and ResNet-101c are downloaded by themselves; the other
files are expected in the folder where a training starts, made of what others publish:

| file | made of |
| --- | --- |
{rows}

```sh
{commands}
```

Without converting, `MODEL.WEIGHTS` on the command line takes the file that is downloaded, or its
address.
"""


def document(zoo: dict[str, Any]) -> str:
    """The text of docs/MODEL_ZOO.md."""
    entries = zoo["recipes"].values()
    measured = sum(bool(entry["measured"]) for entry in entries)
    example = zoo["recipes"]["ade20k-150/maskformer_R50_bs16_160k"]["weights"]
    intro = INTRO.format(
        papers="\n".join(_paper(name, paper) for name, paper in zoo["papers"].items()),
        measured=f"{measured} of {len(entries)} models are." if measured else "There are none yet.",
        example=example,
    )
    tables = ["\n".join(_table(zoo, folder)) + "\n" for folder in zoo["data_sets"]]
    return "\n".join([intro, *tables, _initial(zoo["initial_weights"])])


def _paper(name: str, paper: dict[str, Any]) -> str:
    weights = f"weights {paper['license']}" if paper["license"] else paper["note"]
    return f"- {name}: [{paper['text']}]({paper['url']}); {weights}"


def _initial(weights: dict[str, dict[str, str]]) -> str:
    rows, commands = [], []
    for file, made in weights.items():
        link = f"[{made['of']}]({made['url']})"
        if "file" in made:
            link = f"`{made['file']}`, linked from the page of {link}"
        rows.append(_row([f"`{file}`", link]))
        downloaded = made.get("file", made["url"].split("/")[-1])
        commands.append(f"python -m tools.convert_weights {downloaded} {file}")
    return INITIAL.format(rows="\n".join(rows), commands="\n".join(commands))


def _table(zoo: dict[str, Any], folder: str) -> Iterator[str]:
    facts = zoo["data_sets"][folder]
    entries = {
        name: entry
        for name, entry in zoo["recipes"].items()
        if model_zoo.data_set(zoo, name) is facts
    }
    metrics = _present(METRICS, entries)
    costs = _present(COSTS, entries)
    yield f"## {facts['paper']}: {facts['title']}, {facts['task']} segmentation"
    yield ""
    headings = [f"{METRICS[key][0]}: {of}" for key in metrics for of in ("published", "measured")]
    headings += [f"{COSTS[key][0]}: published" for key in costs]
    yield _row(["recipe", "model", "backbone", *headings, "weights"])
    yield _row(["---"] * 3 + ["---:"] * len(headings) + ["---"])
    for name, entry in entries.items():
        cells = [
            _format(METRICS, key, entry[of]) for key in metrics for of in ("published", "measured")
        ]
        cells += [_format(COSTS, key, entry["published"]) for key in costs]
        recipe = f"[{name.split('/')[-1]}](../configs/{name}.yaml)"
        weights = f"[download]({entry['weights']})" if entry["weights"] else NOTHING
        yield _row([recipe, entry["model"], entry["backbone"], *cells, weights])
    notes = {name: entry["note"] for name, entry in entries.items() if "note" in entry}
    if notes:
        yield ""
    for name, note in notes.items():
        yield f"- {name.split('/')[-1]}: {note}"


def _present(columns: dict[str, Any], entries: dict[str, Any]) -> list[str]:
    """The columns that have a value for any recipe."""
    return [key for key in columns if any(key in e["published"] for e in entries.values())]


def _format(columns: dict[str, tuple[str, str]], key: str, values: dict[str, float]) -> str:
    return columns[key][1].format(values[key]) if key in values else NOTHING


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def header(zoo: dict[str, Any], name: str) -> str:
    """The comment on top of a recipe: the command, the published metrics, the weights."""
    entry, facts = zoo["recipes"][name], model_zoo.data_set(zoo, name)
    license = zoo["papers"][facts["paper"]]["license"]
    machines = entry.get("machines", facts["machines"])
    config = f"--config-file configs/{name}.yaml"
    if machines > 1:
        command = (
            f"torchrun --nnodes {machines} --nproc-per-node 8 --rdzv-backend c10d "
            f"--rdzv-endpoint HOST:29500 \\\n#     train_net.py {config}"
        )
    else:
        command = f"python train_net.py --num-gpus 8 \\\n#     {config}"
    lines = [
        f"{entry['model']}, {entry['backbone']}: {facts['task']} segmentation of {facts['title']}.",
        f"  {command}",
    ]
    published = f"Published: {_metrics(entry['published']) or 'no metric'}"
    if entry["weights"]:
        lines.append(f"{published}. Published weights ({license}):")
        lines.append(f"  {entry['weights']}")
    else:
        lines.append(f"{published}, and no weights.")
    initial = model_zoo.get_config(name).MODEL.WEIGHTS
    if "note" in entry:
        lines.append(entry["note"])
    if initial and "://" not in initial:
        lines.append(f"Starts from {initial}: docs/MODEL_ZOO.md says how to make it.")
    return "".join(f"# {line}\n" for line in lines)


def _metrics(published: dict[str, float]) -> str:
    texts = [
        f"{published[key]} {METRICS[key][0]}"
        for key in ("PQ", "AP", "boundary_AP", "mIoU")
        if key in published
    ]
    if "mIoU_multi_scale_flip" in published:
        texts.append(f"{published['mIoU_multi_scale_flip']} with multi-scale and flip testing")
    return ", ".join(texts)


def with_header(text: str, header: str) -> str:
    """The text of a recipe with its leading comments replaced."""
    lines = text.splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        del lines[0]
    return header + "".join(lines)


def main() -> None:
    zoo = model_zoo.table()
    DOC.parent.mkdir(exist_ok=True)
    DOC.write_text(document(zoo), encoding="utf-8")
    for name in zoo["recipes"]:
        path = Path(model_zoo.get_config_file(name))
        text = path.read_text(encoding="utf-8")
        path.write_text(with_header(text, header(zoo, name)), encoding="utf-8")


if __name__ == "__main__":
    main()
