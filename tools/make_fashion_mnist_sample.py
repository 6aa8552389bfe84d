"""Make the bundled sample: a class-balanced part of Fashion-MNIST as PNG pictures in parquet, in the hub's schema.

    python tools/make_fashion_mnist_sample.py SOURCE [TARGET]

SOURCE is the folder with the four IDX files of Fashion-MNIST (Debian's package dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist). Of every class the first 1,000 training and the first 200 test images are kept, in
their order. No random numbers: the same versions of Pillow, its zlib and pyarrow write the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from precut.data._idx import find as find_idx
from precut.data._known import KNOWN
from precut.data._source import Part, Wanted

PER_CLASS = {"train": 1000, "test": 200}
TARGET = Path(__file__).parents[1] / "src/precut/data/samples/fashion-mnist"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the IDX files")
    parser.add_argument("target", type=Path, nargs="?", default=TARGET, help="folder to write the parquet files to")
    arguments = parser.parse_args()
    source = find_idx(arguments.source)
    if source is None or source.train is None or source.test is None:
        parser.error(f"{arguments.source} has no IDX files of Fashion-MNIST")
    arguments.target.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", source.train), ("test", source.test)):
        path = arguments.target / f"{split}.parquet"
        rows = write(part, PER_CLASS[split], path)
        print(f"{path}: {rows} images, {path.stat().st_size:,} bytes")


def write(part: Part, per_class: int, path: Path) -> int:
    """Write the first ``per_class`` images of each class; returns how many that are."""
    loaded = part.load(Wanted(channels=1, num_classes=10))
    labels = loaded.labels.numpy()
    kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(10)]))
    pictures = [{"bytes": png(loaded.images[row, 0].numpy()), "path": None} for row in kept]
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(KNOWN["fashion-mnist"].classes or ()), "_type": "ClassLabel"},
    }
    schema = pa.schema(
        [("image", picture), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    table = pa.table({"image": pa.array(pictures, picture), "label": pa.array(labels[kept])}, schema=schema)
    pq.write_table(table, path, row_group_size=1000, compression="zstd", use_dictionary=["label"])
    return len(kept)


def png(pixels: np.ndarray) -> bytes:
    """The smallest PNG that Pillow makes of a grey image."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


if __name__ == "__main__":
    main()
