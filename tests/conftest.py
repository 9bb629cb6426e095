"""Fixtures that all tests share: real photos if there are any, drawn photos, and a small captioner."""

import multiprocessing
import os
import tempfile
from pathlib import Path

import pytest

from tests.support import drawings

os.environ.setdefault("VLCAP_ENGINE", "pytorch")  # exporting each small captioner would take longer than its test
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test uses the network; the hub's client fails at once
if "PYTEST_XDIST_WORKER" in os.environ:  # two workers with threads for all cores would slow each other down
    os.environ.setdefault("OMP_NUM_THREADS", "1")
else:  # the workers, and all that they start, get what is set here
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # pytest's own folders stay where they are
    # Killed processes leave files behind. They and the caches lie in one folder, which goes when the tests have ended.
    left_over = tempfile.TemporaryDirectory(prefix="vlcap-tests-", ignore_cleanup_errors=True)
    os.environ["TMPDIR"] = tempfile.tempdir = left_over.name
    os.environ["VLCAP_CACHE"] = os.path.join(left_over.name, "vlcap")
    os.environ["HF_DATASETS_CACHE"] = os.path.join(left_over.name, "datasets")

import torch  # reads the number of threads, so it is imported here

if method := os.environ.get("VLCAP_START_METHOD"):  # how data loading processes start: make test-spawn
    multiprocessing.set_start_method(method)

REPOSITORY = Path(__file__).parents[1]


LONGEST = (
    "train/test_study.py",
    "app/browser/test_static_page.py",
    "app/browser/test_demo_caption.py",
    "app/test_cli.py",
    "train/test_recipes.py",
    "app/test_keeping.py",
    "train/test_survival.py",
    "train/test_clips.py",
    "vlcap/test_engines.py",
    "train/test_training.py",
    "test_fuzz.py",
    "train/test_new_encoder.py",
    "app/browser/test_demo_access.py",
    "vlcap/test_cluster.py",
    "train/test_processes.py",
    "app/browser/test_demo_files.py",
    "train/test_training_benchmark.py",
    "vlcap/test_peers.py",
    "app/test_demo_load.py",
    "test_faults.py",
    "vlcap/test_decode.py",
    "vlcap/test_results.py",
    "train/test_streaming.py",
    "train/test_new_decoder.py",
    "encoders/test_vittm.py",
    "vlcap/test_benchmark.py",
    "train/test_start_methods.py",
    "vlcap/test_bundled.py",
    "test_packaging.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take half a minute and more come first: no worker is left alone with one of them at the end."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def real_data() -> Path | None:
    """Folder of the real data sets: $VLCAP_DATA, or ../shared/data; None if it does not exist."""
    folder = Path(os.environ.get("VLCAP_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """An empty folder at first, which all workers of this run share: for what takes long to make, under a lock."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def captioned_folder(tmp_path_factory) -> Path:
    """Drawn photos with captions, in COCO 2014's layout: 240 train, 24 val."""
    return drawings.write_coco_folder(tmp_path_factory.mktemp("captioned"), {"train2014": 240, "val2014": 24})


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory) -> Path:
    """Drawn photos in one folder per color: 60 x 4 train, 6 x 4 val."""
    return drawings.write_class_folders(tmp_path_factory.mktemp("classes"), {"train": 240, "val": 24})


@pytest.fixture(scope="session")
def captioner_folder(tmp_path_factory) -> Path:
    """A captioner folder with random weights: its captions are nonsense, but the same for the same photo."""
    from vlcap.captioner import Captioner
    from vlcap.model.build import build_model
    from vlcap.model.encoder import Encoder
    from vlcap.model.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(drawings.captions(60), vocab_size=60)
    encoder = Encoder.create("lookupvit_test_patch8_48")
    model = build_model(encoder, vocab_size=len(tokenizer), width=48, layers=2, heads=2, max_length=12)
    for name, weight in model.decoder.named_parameters():  # with initial weights, all photos would get the same caption
        weight.data.mul_(30 if "crossattention" in name else 3)
    folder = tmp_path_factory.mktemp("captioner") / "small"
    Captioner.from_model(model, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def graphs_cache(captioner_folder, shared_folder) -> Path:
    """A cache (VLCAP_CACHE) that has the small captioner's graphs for all its budgets."""
    from vlcap.export.cache import onnx_engine

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLCAP_CACHE", str(shared_folder / "cache"))
        onnx_engine(captioner_folder, bundled=False)
    return shared_folder / "cache"


@pytest.fixture(scope="session")
def on_onnx(graphs_cache) -> dict[str, str]:
    """Environment variables with which a new process captions with ONNX Runtime, and starts in a moment."""
    return {"VLCAP_ENGINE": "onnx", "VLCAP_CACHE": str(graphs_cache)}


@pytest.fixture(scope="session")
def captioner(captioner_folder):
    from vlcap.captioner import Captioner

    return Captioner.from_pretrained(captioner_folder)
