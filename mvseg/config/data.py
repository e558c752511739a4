"""Keys of datasets: cards, mixture, label space, loader, augmentation."""

from __future__ import annotations

from detectron2.config import CfgNode as CN


def add_data_config(cfg: CN) -> None:
    """Add the keys of datasets, mixture, loader and augmentation.

    Args:
        cfg: the tree, changed in place.
    """
    # Further dataset cards: YAML files or folders of them, registered before the datasets are looked up.
    cfg.DATASETS.CARDS = []
    # The training mixture, one struct per dataset; see mvseg.data.mixing.MixEntry for its fields and defaults:
    #   - {name: coco_2017_train, ratio: 1.0, sampler: uniform, image_size: 640, batch_size: 8,
    #      augmentation: resize_crop, loss_weight: 1.0, repeat_threshold: 0.001, scale_range: [0.1, 2.0],
    #      annotation_scope: verified+hierarchy, proposals: output/proposals/coco_2017_train,
    #      crop_embeddings: output/crop_embeddings/coco_2017_train, pseudo_boxes: output/pseudo/coco_2017_train.json}
    # Empty: DATASETS.TRAIN is used, every dataset in proportion to its size.
    cfg.DATASETS.MIX = []
    # A stored crop embedding (field crop_embeddings) whose box keeps less than this share of its area in the augmented
    # image is left out: the teacher saw something else than what is left of it.
    cfg.DATASETS.CROP_EMBEDDINGS_KEPT_AREA = 0.5
    # "concatenate": one column per (dataset, class); "merge_names": classes of the same name share a column;
    # "merge_similar": classes whose text embeddings are alike; "object": one column for everything (class-agnostic); or
    # a mapping by hand, a .csv, .tsv or .yaml file.
    cfg.DATASETS.LABEL_SPACE = "concatenate"
    cfg.DATASETS.MERGE_THRESHOLD = 0.98  # "merge_similar": smallest cosine of two words that share a column
    # "dataset": every batch comes from one dataset (and has its batch size); "mixed": a batch may hold several.
    cfg.DATALOADER.GROUPING = "mixed"
    # Share of unreadable images (0 to 1) above which training stops; below it they are replaced, counted, reported.
    cfg.DATALOADER.MAX_BAD_IMAGES = 0.01
    # Class-aware sampling and repeat factors per dataset are chosen in DATASETS.MIX (field "sampler").
    # Augmentation recipe where a mixture entry names none: resize_shortest_edge, resize_crop, fixed_size (also lsj).
    cfg.INPUT.AUGMENTATION = "resize_shortest_edge"
    # Recipes resize_crop and fixed_size: side of the crop in pixels, and range of the random scale relative to it.
    cfg.INPUT.TRAIN_SIZE = 640
    cfg.INPUT.SCALE_RANGE = [0.1, 2.0]
