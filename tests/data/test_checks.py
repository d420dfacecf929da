import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from mask_former.config import add_mask_former_config
from mask_former.data.agreement import check_classes
from mask_former.data.checks import check_data, check_records
from mask_former.data.mapper import MaskFormerDatasetMapper
from mask_former.data.reading import read_image
from mask_former.errors import UserError

NAME, OTHER = "test_checks_panoptic", "test_checks_other"


@pytest.fixture
def records(tmp_path):
    records = []
    for number in range(20):
        path = str(tmp_path / f"{number}.png")
        Image.fromarray(np.ones((8, 8, 3), dtype=np.uint8) * np.uint8([7, 0, 0])).save(path)
        segments = [{"id": 7, "category_id": 2}]
        records.append({"file_name": path, "pan_seg_file_name": path, "segments_info": segments})
    return records


@pytest.fixture
def cfg(records, tmp_path):
    for name in (NAME, OTHER):
        DatasetCatalog.register(name, lambda: records)
        MetadataCatalog.get(name).set(
            stuff_classes=["disc", "star", "sky"],
            thing_classes=["disc", "star"],
            image_root=str(tmp_path),
        )
    cfg = get_cfg()
    add_mask_former_config(cfg)
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_panoptic"
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), (OTHER,)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    yield cfg
    for name in (NAME, OTHER):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_numbers_of_classes(cfg):
    check_classes(cfg, NAME)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 133
    with pytest.raises(ValueError, match=f"{NAME}.* 3 classes .*NUM_CLASSES is 133; set it to 3"):
        check_classes(cfg, NAME)


def test_an_ignored_label_that_is_a_class(cfg):
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 2
    with pytest.raises(UserError, match=f"IGNORE_VALUE is 2, .* class 'sky' .*{NAME}.*as 255"):
        check_data(cfg)
    MetadataCatalog.get(NAME).ignore_label = 2
    check_classes(cfg, NAME)  # which is meant
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 3
    check_classes(cfg, OTHER)
    # Panoptic segmentation alone ignores no label.
    cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 2
    cfg.MODEL.MASK_FORMER.TEST.SEMANTIC_ON = False
    check_classes(cfg, OTHER)


def test_for_instances_no_label_is_ignored(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 2, 1
    check_classes(cfg, NAME)


def test_for_instances_things_are_counted(cfg):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    with pytest.raises(ValueError, match="has 2 classes"):
        check_classes(cfg, NAME)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    check_classes(cfg, NAME)


def test_metadata_without_classes(cfg):
    MetadataCatalog.remove(NAME)
    with pytest.raises(ValueError, match=f"{NAME}.*has no stuff_classes"):
        check_classes(cfg, NAME)


@pytest.mark.parametrize("wrong", ["TRAIN", "TEST"])
def test_all_data_sets_are_checked(cfg, wrong, tmp_path):
    check_data(cfg)
    wrong_name = NAME if wrong == "TRAIN" else OTHER
    MetadataCatalog.remove(wrong_name)
    MetadataCatalog.get(wrong_name).set(stuff_classes=["sky"], image_root=str(tmp_path))
    numbers = "1 and 3" if wrong == "TRAIN" else "3 and 1"
    with pytest.raises(ValueError, match=f"{NAME}.*{OTHER}.* they have {numbers} "):
        check_data(cfg)


def test_evaluation_needs_no_training_set(cfg):
    cfg.DATASETS.TRAIN = ("nowhere",)
    check_data(cfg, eval_only=True)


@pytest.mark.parametrize("key", ["TRAIN", "TEST"])
def test_no_data_set(cfg, key):
    cfg.DATASETS[key] = ()
    with pytest.raises(ValueError, match=f"DATASETS.{key} is empty: name a data set"):
        check_data(cfg, eval_only=key == "TEST")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("5.png", r"There is .*moved.5\.png: is its folder meant\?"),
        ("a\\5.png", "has backslashes: folders are divided by /"),
        ("C:\\me\\0.png", r"There is .*0\.png: leave the folders, those of another place, out"),
        ("C:/me/0.png", r"There is .*0\.png: leave the folders, those of another place, out"),
    ],
)
def test_where_a_missing_file_may_be(cfg, records, tmp_path, name, hint):
    (tmp_path / "moved").mkdir()
    (tmp_path / "5.png").rename(tmp_path / "moved" / "5.png")
    records[5]["file_name"] = records[5]["pan_seg_file_name"] = str(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=hint):
        check_data(cfg)
    with pytest.raises(FileNotFoundError, match=hint):
        read_image(records[5]["file_name"], "RGB")


def test_missing_folder(cfg, tmp_path):
    MetadataCatalog.remove(OTHER)
    MetadataCatalog.get(OTHER).set(stuff_classes=[*"abc"], image_root=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="gone"):
        check_data(cfg)


def test_sound_records_are_given_back(cfg, records):
    assert check_records(NAME, records, MaskFormerDatasetMapper(cfg)) is records
    assert check_records(NAME, records[:1], MaskFormerDatasetMapper(cfg)) == records[:1]


def test_category_ids_of_all_records_are_checked(cfg, records):
    records[3]["segments_info"][0]["category_id"] = 3
    with pytest.raises(ValueError, match=f"{NAME}.*3.png .*category ids 3,"):
        check_records(NAME, records, MaskFormerDatasetMapper(cfg))


def test_some_samples_are_tried_from_the_first_to_the_last(cfg, records):
    tried = []

    class Mapper(MaskFormerDatasetMapper):
        def __call__(self, record):
            tried.append(records.index(record))

    check_records(NAME, records, Mapper(cfg))
    assert len(tried) == 8 and tried[0] == 0 and tried[-1] == 19
    assert max(np.diff(tried)) <= 3


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_error_of_a_sample_names_data_set_and_file(cfg, records, kind, tmp_path):
    path = tmp_path / "19.png"
    path.write_bytes(b"") if kind is ValueError else path.unlink()
    with pytest.raises(kind, match=f"{NAME}.*19.png"):
        check_records(NAME, records, MaskFormerDatasetMapper(cfg))


def test_all_files_are_looked_for(cfg, records, tmp_path):
    (tmp_path / "11.png").unlink()  # none of those that are tried
    with pytest.raises(FileNotFoundError, match=rf"{NAME}.*2 files are missing: .*11\.png"):
        check_records(NAME, records, MaskFormerDatasetMapper(cfg))


@pytest.mark.parametrize("eval_only", [False, True])
def test_sizes_of_all_images_are_compared_with_their_records(cfg, records, eval_only):
    records[11].update(height=8, width=9)  # none of those that are tried
    name = OTHER if eval_only else NAME
    with pytest.raises(ValueError, match=rf"{name}.*11\.png is 8 x 8 .* says 9 x 8"):
        check_data(cfg, eval_only=eval_only)


def test_sizes_of_all_images_are_compared_with_their_label_maps(cfg, records, tmp_path):
    """Records of folders have no size."""
    path = tmp_path / "turned.png"
    Image.fromarray(np.zeros((9, 8, 3), dtype=np.uint8)).save(path)
    records[11]["pan_seg_file_name"] = str(path)
    with pytest.raises(ValueError, match=rf"{NAME}.*turned\.png is 8 x 9 .*11\.png is 8 x 8"):
        check_data(cfg)


def test_label_map_of_an_image_that_exif_turns(cfg, records, tmp_path):
    image = Image.fromarray(np.zeros((8, 6, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    labels = np.zeros((6, 8, 3), dtype=np.uint8) + np.uint8([7, 0, 0])
    Image.fromarray(labels).save(tmp_path / "labels.png")
    records[11].update(
        file_name=str(tmp_path / "turned.jpg"), pan_seg_file_name=str(tmp_path / "labels.png")
    )
    check_data(cfg)
    cfg.INPUT.EXIF_ORIENTATION = False
    sizes = r"labels\.png is 8 x 6 .* image .*turned\.jpg is 6 x 8"
    with pytest.raises(ValueError, match=f"{sizes}.* INPUT.EXIF_ORIENTATION True"):
        check_data(cfg)


def test_masks_of_all_records_are_checked(cfg, records):
    cfg.INPUT.DATASET_MAPPER_NAME = "mask_former_instance"
    square = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0]]
    for record in records:
        annotations = [{"id": 1, "category_id": 2, "segmentation": square}]
        record.update(height=8, width=8, annotations=annotations)
    mapper = MaskFormerDatasetMapper(cfg)
    assert check_records(NAME, records, mapper) is records
    records[11]["annotations"].append({"id": 4711, "category_id": 2, "segmentation": []})
    with pytest.raises(ValueError, match=rf"{NAME}.*11\.png: annotation 4711 has no mask"):
        check_records(NAME, records, mapper)


def test_label_maps_of_other_images(cfg, records, tmp_path):
    """As Detectron2 pairs them when an image and another label map are missing."""
    for number, record in enumerate(records):
        record["sem_seg_file_name"] = str(tmp_path / f"{number + (number > 10)}.png")
    with pytest.raises(ValueError, match=r"9 of 20 label maps .*12\.png for .*11\.png"):
        check_records(NAME, records, MaskFormerDatasetMapper(cfg))
    for number, record in enumerate(records):  # a naming of its own
        record["sem_seg_file_name"] = str(tmp_path / f"{number}.png")
        record["file_name"] = str(tmp_path / f"{19 - number}.png")
    check_records(NAME, records, MaskFormerDatasetMapper(cfg))
