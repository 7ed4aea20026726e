"""Exports a learner as one file that can be used with JAX alone.

The file is a zip archive of

  program.bin    for `jax.export.deserialize`: takes images, returns scores, contains the weights
  about.json     class names, image shape, and the meaning of the scores
  use.py         example code that runs the program
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
DATE = (1980, 1, 1, 0, 0, 0)  # of files in the archive: equal learners give equal archives

USE = '''\
"""Requires: pip install jax flatbuffers. The program was exported by {version}. JAX guarantees that
versions up to 6 months newer can read it; for later versions, export it again."""
import json
import zipfile

import numpy as np
from jax import export

with zipfile.ZipFile({file}) as file:
    class_names = json.loads(file.read("about.json"))["class_names"]
    program = export.deserialize(bytearray(file.read("program.bin")))
images = np.zeros((1, {shape}), np.uint8)  # replace with your images: any number, pixels 0..255
scores = np.asarray(program.call(images))  # {meaning}
print([class_names[label] for label in scores.argmax(axis=1)])
'''


def export(learner: SavedLearner, file: str | os.PathLike, classifier: str | None = None) -> str:
    """Writes a learner as a program for CPUs and accelerators that does not need cil_jax.

    Args:
      learner: the learner.
      file: the zip archive to write.
      classifier: see `SavedLearner.predict`.

    Returns:
      Example code that runs the program.

    Raises:
      UserError: if the file exists or can't be written, or if there is no such classifier.
    """
    path, name = Path(file), learner.checked_classifier(classifier)
    if os.path.lexists(path):
        raise UserError(f"{path} exists already: choose another --out")
    engine = engine_of(learner.config, None, learner.room, platform="any")
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
