"""A learner as one file that needs only JAX: its program, its class names, and how it is used.

The file is a zip archive of

  program.bin    what `jax.export.deserialize` reads: images in, scores out, weights inside
  about.json     class names, image shape, and what the scores are
  use.py         the lines that use it
"""

import json
import os
import zipfile
from pathlib import Path

from cil_jax.errors import UserError
from cil_jax.files import writing
from cil_jax.platform.versions import versions
from cil_jax.trained.saved_learner import SavedLearner
from cil_jax.training.build import engine_of

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DATE = (1980, 1, 1, 0, 0, 0)  # of the files in the archive: the same learner is the same archive

USE = '''\
"""It needs: pip install jax flatbuffers. JAX promises that versions up to 6 months newer than
{version}, which wrote the program, can read it; export it again for later ones."""
import json
import zipfile

import numpy as np
from jax import export

with zipfile.ZipFile({file}) as file:
    class_names = json.loads(file.read("about.json"))["class_names"]
    program = export.deserialize(bytearray(file.read("program.bin")))
images = np.zeros((1, {shape}), np.uint8)  # put your own here: any number, pixels 0..255
scores = np.asarray(program.call(images))  # {meaning}
print([class_names[best] for best in scores.argmax(axis=1)])
'''


def export(learner: SavedLearner, file: str | os.PathLike, classifier: str | None = None) -> str:
    """Writes a learner as a program that needs no cil_jax, for CPUs and accelerators.

    Args:
      learner: who answers.
      file: to be written.
      classifier: as for `SavedLearner.predict`.

    Returns:
      The lines that use it.

    Raises:
      UserError: if the file exists, or can't be written.
    """
    path, name = Path(file), learner.checked_classifier(classifier)
    if os.path.lexists(path):
        raise UserError(f"{path} exists already: choose another --out")
    engine = engine_of(learner.config, None, platform="any")
    meaning, made_by = engine.method.scale(name).meaning, versions()
    about = {
        "class_names": learner.class_names,
        "image_shape": learner.image_shape,
        "classifier": name,
        "scores": meaning,
        "platforms": PLATFORMS,
        "versions": made_by,
    }
    use = USE.format(
        version=f"jax {made_by['jax']}",
        file=json.dumps(path.name),
        shape=", ".join(map(str, learner.image_shape)),
        meaning=meaning,
    )
    content = {
        "program.bin": engine.exported(learner.state, name, PLATFORMS),
        "about.json": json.dumps(about, indent=1) + "\n",
        "use.py": use,
    }
    with (
        writing.writing(path),
        writing.replaced(path) as out,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for part, data in content.items():
            archive.writestr(zipfile.ZipInfo(part, DATE), data, zipfile.ZIP_DEFLATED)
    return use
