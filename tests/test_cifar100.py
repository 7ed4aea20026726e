"""CIFAR-100: prepared from the archive's format, read through tfds, cached; and the real one."""

import functools
import hashlib
import http.server
import io
import shutil
import sys
import tarfile
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import small_config

import cil_jax
from cil_jax import data
from cil_jax.commands.prepare import main
from cil_jax.data import cifar100, prepare
from cil_jax.errors import UserError

N_TRAIN, N_TEST = 200, 100


def binary(n: int, seed: int) -> np.ndarray:
    """Records of the real format: coarse label, fine label, planes of red, green and blue."""
    raw = np.random.RandomState(seed).randint(0, 256, (n, 3074)).astype(np.uint8)
    raw[:, 0] %= 20
    raw[:, 1] = np.arange(n) % 100
    return raw


@pytest.fixture(scope="module")
def archive_file(tmp_path_factory):
    """A small archive with the members of the official one."""
    file = tmp_path_factory.mktemp("archive") / "cifar-100-binary.tar.gz"
    members = {
        "train.bin": binary(N_TRAIN, 0).tobytes(),
        "test.bin": binary(N_TEST, 1).tobytes(),
        "coarse_label_names.txt": "".join(f"coarse_{i}\n" for i in range(20)).encode(),
        "fine_label_names.txt": "".join(f"fine_{i}\n" for i in range(100)).encode() + b"\n",
    }
    with tarfile.open(file, "w:gz") as out:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-100-binary/{name}")
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return file


@pytest.fixture
def served(archive_file, monkeypatch):
    """The small archive on a loopback server, in the place of the official one."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=archive_file.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    archive = prepare.Archive(
        url=f"http://127.0.0.1:{server.server_port}/{archive_file.name}",
        size=archive_file.stat().st_size,
        md5=hashlib.md5(archive_file.read_bytes()).hexdigest(),
    )
    monkeypatch.setattr(prepare, "CIFAR100", archive)
    yield archive
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, request):
    """Decoded arrays of made-up data are not kept."""
    if "real" not in request.keywords:
        monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "own_cache"))


def check_content(dataset):
    raw = binary(N_TRAIN, 0)
    planes = raw[:, 2:].reshape(-1, 3, 32, 32)
    np.testing.assert_array_equal(dataset.train_images.transpose(0, 3, 1, 2), planes)
    np.testing.assert_array_equal(dataset.train_labels, raw[:, 1])
    np.testing.assert_array_equal(dataset.test_labels, binary(N_TEST, 1)[:, 1])
    assert dataset.class_names == tuple(f"fine_{i}" for i in range(100))
    assert (dataset.pad, dataset.mirror) == (4, True)  # as presets say


def test_download_prepare_and_read_without_tensorflow(served, tmp_path, capsys):
    folder = tmp_path / "tfds"
    assert main(["--data-dir", str(folder)]) == 0
    assert f"CIFAR-100 is ready in {folder}/cifar100/" in capsys.readouterr().out.replace("\n", "")
    assert [f.name for f in folder.iterdir()] == ["cifar100"]
    check_content(data.load("cifar100", folder))
    assert "tensorflow" not in sys.modules
    # It is there now: nothing is fetched again.
    assert prepare.prepare(folder, archive=prepare.Archive("http://127.0.0.1:9/x", 0, "")).exists()


def test_an_archive_at_hand_is_used_and_kept(served, archive_file, tmp_path):
    assert main(["--data-dir", str(tmp_path), "--archive", str(archive_file)]) == 0
    assert archive_file.exists()
    check_content(data.load("cifar100", tmp_path))


def test_tfds_itself_reads_what_was_prepared(served, tmp_path):
    prepare.prepare(tmp_path, archive=served)
    source = tfds.builder("cifar100", data_dir=tmp_path).as_data_source(split="test")
    assert len(source) == N_TEST
    record = source[0]
    row = binary(N_TEST, 1)[int(record["id"].decode().removeprefix("test_"))]
    assert (record["coarse_label"], record["label"]) == (row[0], row[1])


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_archive_is_refused_with_both_checksums(
    served, archive_file, tmp_path, capsys, damage
):
    content = bytearray(archive_file.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        content[1000] ^= 1
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(content)
    folder = tmp_path / "tfds"
    assert main(["--data-dir", str(folder), "--archive", str(bad)]) == 2
    error = capsys.readouterr().err
    assert hashlib.md5(content).hexdigest() in error and served.md5 in error
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert list(folder.iterdir()) == []


def test_a_broken_download_is_refused_and_leaves_nothing(served, tmp_path, capsys):
    folder = tmp_path / "tfds"
    cut = prepare.Archive(served.url, served.size + 1, served.md5)
    with pytest.raises(UserError, match=served.md5):
        prepare.prepare(folder, archive=cut)
    gone = prepare.Archive(f"{served.url}.gone", served.size, served.md5)
    with pytest.raises(UserError, match=r"can't download .*--archive FILE"):
        prepare.prepare(folder, archive=gone)
    assert list(folder.iterdir()) == []


def test_a_missing_archive_is_said(tmp_path, capsys):
    assert main(["--data-dir", str(tmp_path / "d"), "--archive", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: there is no archive {tmp_path / 'none'}\n"


def test_no_data_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=f"cil-jax prepare --data-dir {tmp_path}"):
        data.load("cifar100", tmp_path)


@pytest.fixture(scope="module")
def prepared_once(archive_file, tmp_path_factory):
    """A data folder with what the small archive holds."""
    folder, content = tmp_path_factory.mktemp("prepared"), archive_file.read_bytes()
    archive = prepare.Archive("", len(content), hashlib.md5(content).hexdigest())
    prepare.prepare(folder, archive_file, archive)
    return folder


@pytest.fixture
def prepared(prepared_once, tmp_path):
    """The folder of the one version in a data folder, `tmp_path`."""
    shutil.copytree(prepared_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "cifar100" / "3.0.2"


def refused(tmp_path):
    """The only line of what is said of damaged data, without the advice that ends it."""
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    (line,) = error.value.lines
    source, again = tmp_path / "cifar100" / "3.0.2", "cil-jax prepare"
    advice = f": move {source} away and prepare it again with {again} --data-dir {tmp_path}"
    assert line.startswith(str(source)) and line.endswith(advice) and "\n" not in line
    return line.removeprefix(str(source)).removesuffix(advice)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_record_file_is_the_only_thing_that_is_said(prepared, tmp_path, split, damage):
    name = f"cifar100-{split}.array_record-00000-of-00001"
    content = bytearray((prepared / name).read_bytes())
    content[70_000] ^= 1  # within the records
    damaged = {"cut": content[:20_000], "flipped": content, "empty": b""}[damage]
    (prepared / name).write_bytes(damaged)
    cause = refused(tmp_path)
    assert name in cause and "no training image" not in cause and "no test image" not in cause
    with pytest.raises(UserError) as error:
        data.load("tfds:cifar100", tmp_path)
    assert error.value.lines == (f"{prepared}{cause}",)


def test_several_damaged_files_of_cifar100_are_said_with_what_to_do(prepared, tmp_path):
    for file in prepared.glob("*.array_record*"):
        file.write_bytes(b"")
    with pytest.raises(UserError) as error:
        data.load("cifar100", tmp_path)
    first, train, test, advice = error.value.lines
    assert first == f"{prepared} has 2 problems:"
    assert train.startswith("cifar100-train.arr") and test.startswith("cifar100-test.arr")
    assert advice.startswith(f"move {prepared} away and prepare it again with")


@pytest.mark.parametrize(
    ("file", "old", "new", "cause"),
    [
        ("dataset_info.json", "{", "", "/dataset_info.json can't be read"),
        ("dataset_info.json", '"train"', '"tr"', "has the splits tr, test; it needs train"),
        ("dataset_info.json", f'"{N_TRAIN}"', f'"{N_TRAIN + 9}"', "cifar100-train.array_record"),
        ("dataset_info.json", f'"{N_TRAIN}"', '"90"', f"holds {N_TRAIN} records, but dataset_info"),
        ("features.json", "{", "", "/features.json can't be read"),
        ("features.json", '"id"', '"identity"', "has no feature id"),
        ("label.labels.txt", "fine_0\n", "fine_1\n", "two classes are named 'fine_1'"),
    ],
)
def test_a_damaged_description_is_said_in_a_line(prepared, tmp_path, file, old, new, cause):
    text = (prepared / file).read_text()
    assert old in text
    (prepared / file).write_text(text.replace(old, new, 1))
    assert cause in refused(tmp_path)


def test_arrays_are_decoded_once(served, tmp_path, monkeypatch):
    prepare.prepare(tmp_path / "tfds", archive=served)
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "cache"))
    calls = []
    original = cifar100.decode
    monkeypatch.setattr(cifar100, "decode", lambda f: calls.append(f) or original(f))

    one = data.load("cifar100", tmp_path / "tfds")
    two = data.load("cifar100", tmp_path / "tfds")
    np.testing.assert_array_equal(one.train_images, two.train_images)
    assert len(calls) == 1
    (cache,) = (tmp_path / "cache").iterdir()

    cache.write_bytes(cache.read_bytes()[:1000])  # damaged: made anew
    check_content(data.load("cifar100", tmp_path / "tfds"))
    assert len(calls) == 2

    info = next((tmp_path / "tfds").glob("cifar100/*/dataset_info.json"))
    info.write_text(info.read_text() + "\n")  # the source has changed: made anew
    data.load("cifar100", tmp_path / "tfds")
    assert len(calls) == 3 and len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written_does_no_harm(served, tmp_path, monkeypatch):
    prepare.prepare(tmp_path / "tfds", archive=served)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIL_JAX_CACHE", str(tmp_path / "file" / "below"))
    check_content(data.load("cifar100", tmp_path / "tfds"))


@pytest.mark.real
@pytest.mark.slow
def test_the_real_cifar100(real_data_dir):
    dataset = data.load("cifar100", real_data_dir)
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert dataset.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [500] * 100
    assert np.bincount(dataset.test_labels).tolist() == [100] * 100
    assert dataset.class_names[:3] == ("apple", "aquarium_fish", "baby")
    # The mean and deviation that the whole field normalises with.
    mean, std = dataset.pixel_statistics("per-channel")
    np.testing.assert_allclose(mean.ravel(), [0.5071, 0.4865, 0.4409], atol=5e-5)
    np.testing.assert_allclose(std.ravel(), [0.2673, 0.2564, 0.2762], atol=5e-5)


@pytest.mark.real
@pytest.mark.slow
def test_real_tasks_have_5000_images(real_data_dir):
    tasks = data.scenario.create(data.load("cifar100", real_data_dir))
    assert [tasks.n_images(t) for t in range(10)] == [5000] * 10
    assert tasks.test_set()[2] == tuple(range(0, 10_001, 1000))


def test_a_run_learns_from_what_was_prepared(served, tmp_path):
    """Colour images of 32 x 32 through padding, mirroring, memory and evaluation."""
    prepare.prepare(tmp_path / "tfds", archive=served)
    config = small_config(
        "icarl",
        tmp_path / "run",
        dataset="cifar100",
        data_dir=str(tmp_path / "tfds"),
        task_size=2,
        classes=4,
        epochs=1,
        batch_size=4,
    )
    results = cil_jax.run(config)
    assert results["class_order"] == [87, 0, 52, 58]  # the order of the preset, iCaRL's authors'
    # Two images a class are all there are, and the memory holds five of each.
    assert results["memory_bytes"] == 4 * 2 * 32 * 32 * 3
