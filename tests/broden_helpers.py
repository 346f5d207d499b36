"""A tiny folder in Broden's format."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 8


def write_broden(folder: Path, images: int = 6, channels: int = 1) -> Path:
    """Write a folder with three concepts, and return it.

    Concept 300, the object "sky", is the left half of the images 0, 2, 4. Scene 7, "street-s", is the whole of the
    images 0, 3. Concept 2, the part "wheel", is the lower right quarter of all images but the last, in two
    segmentations.
    """
    (folder / "images" / "a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = ["image,split,ih,iw,sh,sw,object,part,scene,material"]
    for i in range(images):
        shape = (SIZE, SIZE) if channels == 1 else (SIZE, SIZE, 3)
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / "images" / "a" / f"{i}.png")
        objects, parts = np.zeros((2, SIZE, SIZE), int)
        if i % 2 == 0:
            objects[:, : SIZE // 2] = 300
        parts[SIZE // 2 :, SIZE // 2 :] = 2
        for name, numbers in (("object", objects), ("part", parts)):
            picture = np.stack([numbers % 256, numbers // 256, 0 * numbers], axis=-1).astype(np.uint8)
            Image.fromarray(picture).save(folder / "images" / "a" / f"{i}_{name}.png")
        part = f"a/{i}_part.png;a/{i}_part.png" if i < images - 1 else ""
        rows.append(f"a/{i}.png,train,8,8,8,8,a/{i}_object.png,{part},{'7' if i % 3 == 0 else ''},")
    (folder / "index.csv").write_text("\n".join([*rows, "a/unlabeled.png,train,8,8,8,8,,,,9"]) + "\n")
    (folder / "category.csv").write_text("name,first,last\nobject,300,300\npart,2,2\nscene,7,7\nmaterial,9,9\n")
    labels = ["number,name,category", "2,wheel,part(5);object(1)", "7,street-s,scene(2)", "9,wood,material(1)"]
    (folder / "label.csv").write_text("\n".join([*labels, "300,sky,object(3)"]) + "\n")
    return folder
