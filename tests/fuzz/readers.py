"""The readers by name."""

from train.labels import LabelError
from train.recipe import RecipeError
from vlcap.captioner import CaptionerError
from vlcap.data.captions import CaptionDataError
from vlcap.data.images import ImageError
from vlcap.model.folder import ModelFolderError

from . import Reader, archives, captions, folders, images, labels, layouts, models, recipes, videos

CAPTIONS = (CaptionDataError, ImageError)
READERS = {
    "images": Reader(images.make, images.read, (ImageError,), prepare=images.seeds),
    "videos": Reader(videos.make, videos.read, (ImageError,), prepare=videos.seeds),
    "coco": Reader(captions.make_coco, captions.read_folder, CAPTIONS, prepare=captions.photos),
    "karpathy": Reader(captions.make_karpathy, captions.read_folder, CAPTIONS, prepare=captions.photos),
    "references": Reader(captions.make_references, captions.read_references, (CaptionDataError,)),
    "predictions": Reader(captions.make_predictions, captions.read_predictions, (CaptionDataError,)),
    "parquet": Reader(captions.make_parquet, captions.read_folder, CAPTIONS, prepare=labels.prepare),
    "sidecars": Reader(folders.make_sidecars, folders.read, CAPTIONS, prepare=captions.photos),
    "metadata": Reader(folders.make_metadata, folders.read, CAPTIONS, prepare=captions.photos),
    "tables": Reader(folders.make_tables, folders.read, CAPTIONS, prepare=captions.photos),
    "shards": Reader(folders.make_shards, folders.read, CAPTIONS, prepare=captions.photos),
    "labeling": Reader(folders.make_labeling, folders.read, CAPTIONS, prepare=captions.photos),
    "models": Reader(models.make, models.read, (CaptionerError,), prepare=models.seed),
    "graphs": Reader(models.make, models.read_by_onnx, (CaptionerError,), prepare=models.seed, seconds=120.0),
    "encoders": Reader(models.make_encoder, models.read_encoder, (ModelFolderError,), prepare=models.seed),
    "decoders": Reader(models.make_decoder, models.read_decoder, (CaptionerError,), prepare=models.seed),
    "bytes": Reader(models.make_byte_captioner, models.read, (CaptionerError,), prepare=models.seed),
    "clips": Reader(models.make_clip_captioner, models.read, (CaptionerError,), prepare=models.seed),
    "archives": Reader(archives.make, archives.read, (), prepare=archives.photos),
    "classes": Reader(labels.make_folders, labels.read, (LabelError, ImageError), prepare=labels.prepare),
    "labels": Reader(labels.make_files, labels.read, (LabelError, ImageError), prepare=labels.prepare),
    "recipes": Reader(recipes.make, recipes.read, (RecipeError,)),
    "layouts": Reader(
        layouts.make, layouts.read, (*CAPTIONS, LabelError), prepare=layouts.prepare, count=2000, seconds=60.0
    ),
}
