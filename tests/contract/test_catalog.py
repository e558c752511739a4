"""The dataset and metadata catalogs: lazy, write-once, helpful when a name is wrong."""

from __future__ import annotations

import pickle

import pytest
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog


@pytest.fixture
def name():
    name = "contract_catalog_dataset"
    yield name
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)


def test_a_dataset_is_loaded_only_when_it_is_asked_for(name):
    calls = []
    DatasetCatalog.register(name, lambda: calls.append(1) or [{"file_name": "x"}])
    assert name in DatasetCatalog and name in DatasetCatalog.list() and not calls
    assert DatasetCatalog.get(name) == [{"file_name": "x"}]
    DatasetCatalog.get(name)
    assert len(calls) == 2
    DatasetCatalog.remove(name)
    assert name not in DatasetCatalog


def test_a_name_is_registered_once(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError):
        DatasetCatalog.register(name, list)
    with pytest.raises(AssertionError):
        DatasetCatalog.register("contract_not_a_function", [1])


def test_an_unknown_name_lists_what_exists(name):
    DatasetCatalog.register(name, list)
    with pytest.raises(KeyError, match=name):
        DatasetCatalog.get(name + "s")
    with pytest.raises(KeyError):
        DatasetCatalog.remove("contract_never_registered")


def test_metadata_is_created_on_use_and_shared(name):
    meta = MetadataCatalog.get(name)
    assert meta is MetadataCatalog.get(name) and meta.name == name
    assert meta.set(thing_classes=["a"], evaluator_type="coco") is meta
    assert meta.as_dict() == {"name": name, "thing_classes": ["a"], "evaluator_type": "coco"}
    assert meta.get("stuff_classes", 5) == 5 and meta.get("thing_classes") == ["a"]
    copy = meta.as_dict()
    copy["name"] = "other"
    assert meta.name == name


def test_metadata_is_write_once(name):
    meta = MetadataCatalog.get(name).set(thing_classes=["a", "b"])
    meta.thing_classes = ["a", "b"]
    with pytest.raises(AssertionError, match="thing_classes"):
        meta.thing_classes = ["a", "c"]
    assert meta.thing_classes == ["a", "b"]


def test_a_missing_attribute_names_the_dataset_and_what_it_has(name):
    meta = MetadataCatalog.get(name).set(thing_classes=["a"])
    with pytest.raises(AttributeError, match=name) as caught:
        _ = meta.stuff_classes
    assert "thing_classes" in str(caught.value)
    assert not hasattr(meta, "stuff_classes")


def test_old_names_of_attributes_still_work(name):
    meta = MetadataCatalog.get(name)
    meta.class_names = ["a"]
    assert meta.thing_classes == ["a"] and meta.class_names == ["a"]


def test_metadata_can_be_sent_to_a_loader_process(name):
    meta = MetadataCatalog.get(name).set(thing_classes=["a"])
    assert pickle.loads(pickle.dumps(meta)).as_dict() == meta.as_dict()
    assert Metadata().name == "N/A"
