"""Every sampler and schedule type that is offered, drawn with a demo model: ``docs/samplers.png``.

    python benchmarks/sampler_sheet.py [docs/samplers.png]

Rows are samplers, columns are schedule types, "Automatic" first; all begin with the same noise. Those that add noise on
the way draw another picture, the others nearly the same one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from bayes_merger.imaging import SAMPLERS, load_pipeline, payload_from_mapping, resolve

DEMO = Path(__file__).parents[1] / "bayes_merger" / "demo"
TILE, LEFT, TOP, LABEL = 96, 140, 8, 14
FIELDS = {
    "prompt": "a large red ring on a blue background", "steps": 20, "cfg_scale": 4, "width": 64, "height": 64,
    "seed": 4,
}  # fmt: skip


def main(out: Path) -> None:
    """Draw the sheet."""
    pipeline = load_pipeline(DEMO / "models" / "a.safetensors", config=DEMO / "diffusers", device="cpu", max_batch=1)
    columns = max(len(sampler.schedules) for sampler in SAMPLERS.values())
    height = TOP + len(SAMPLERS) * (TILE + LABEL)
    sheet = Image.new("RGB", (LEFT + columns * (TILE + 4), height), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (name, sampler) in enumerate(SAMPLERS.items()):
        top = TOP + row * (TILE + LABEL)
        pen.text((6, top + TILE // 2), name, fill="black")
        for column, schedule in enumerate(sampler.schedules):
            fields = {**FIELDS, "sampler_name": name, "scheduler": schedule}
            if name == "LCM":
                fields["cfg_scale"] = 1.5
            (image,) = pipeline.draw(resolve([payload_from_mapping("sheet", fields)], 0))
            left = LEFT + column * (TILE + 4)
            sheet.paste(image.image.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, top))
            pen.text((left, top + TILE), schedule, fill="black")
    sheet.quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path("docs/samplers.png"))
