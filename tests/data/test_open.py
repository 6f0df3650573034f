"""Datasets open as downloaded, by name, by folder or by annotation file."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from tests.data import layouts
from vtcli.data.check import check_datasets
from vtcli.data.open import list_splits, open_dataset
from vtcli.data.samples import Dataset
from vtcli.data.splits import split_train_val
from vtcli.errors import DataError, InputError, UsageError
from vtcli.labels import load_labels


def names(dataset: Dataset, head: str = "action", place: int = 0) -> list[str]:
    """The class name of every sample, in order."""
    return [dataset.classes[head][sample.labels[place]] for sample in dataset.samples]


def all_exist(dataset: Dataset) -> bool:
    return all(sample.path.exists() for sample in dataset.samples)


# --- by name, laid out as downloaded ------------------------------------------------------------


def test_ssv2_opens_as_downloaded(tmp_path: Path) -> None:
    dataset = open_dataset("something-something-v2", layouts.ssv2(tmp_path))
    assert dataset.name == "ssv2"
    assert dataset.split == "validation"
    assert [s.id for s in dataset.samples] == [id_ for id_, _ in layouts.SSV2]
    assert dataset.samples[0].path == tmp_path / "20bn-something-something-v2" / "78687.webm"
    assert names(dataset) == [t.replace("[", "").replace("]", "") for _, t in layouts.SSV2]
    assert dataset.classes["action"] == load_labels("ssv2")
    assert all_exist(dataset)


def test_ssv2_takes_test_labels_from_the_file_next_to_the_list(tmp_path: Path) -> None:
    dataset = open_dataset("ssv2", layouts.ssv2(tmp_path), "test")
    assert names(dataset) == ["Throwing something"]
    (tmp_path / "labels" / "test-answers.csv").unlink()
    dataset = open_dataset("ssv2", tmp_path, "test")
    assert [s.labels for s in dataset.samples] == [()]
    assert "no labels" in dataset.summary


@pytest.mark.parametrize("folders", ["flat", "spaces", "underscores"])
def test_kinetics_opens_in_every_folder_layout(tmp_path: Path, folders: str) -> None:
    dataset = open_dataset("k400", layouts.kinetics(tmp_path, folders))
    assert names(dataset) == [label for label, *_ in layouts.KINETICS]
    assert dataset.samples[0].id == "---QUuC4vJs_000084_000094"
    assert dataset.classes["action"] == load_labels("k400")
    assert all_exist(dataset)


def test_ssv1_and_jester_are_folders_of_frames_at_12_fps(tmp_path: Path) -> None:
    dataset = open_dataset("ssv1", layouts.ssv1(tmp_path / "a"))
    assert names(dataset) == ["Something falling like a feather or paper", "Holding something"]
    assert [s.labels for s in dataset.samples][1] == (0,)
    assert dataset.frame_rate == 12
    assert all(s.path.is_dir() for s in dataset.samples)
    dataset = open_dataset("jester", layouts.jester(tmp_path / "b"))
    assert names(dataset) == list(layouts.JESTER)
    assert dataset.frame_rate == 12
    assert dataset.samples[0].path == tmp_path / "b" / "20bn-jester-v1" / "34"
    unlabeled = open_dataset("jester", tmp_path / "b", "test")
    assert [(s.id, s.labels) for s in unlabeled.samples] == [("90", ())]


@pytest.mark.parametrize("number", ["1", "2", "3"])
def test_ucf101_has_three_official_splits(tmp_path: Path, number: str) -> None:
    layouts.ucf101(tmp_path)
    dataset = open_dataset("ucf101", tmp_path, number)
    assert dataset.split == number
    assert names(dataset) == list(layouts.UCF101)
    assert dataset.samples[0].id.endswith(f"_g01_c0{number}.avi")
    train = open_dataset("ucf101", tmp_path, f"train{number}")
    assert names(train) == list(layouts.UCF101)
    assert {s.id for s in train.samples}.isdisjoint(s.id for s in dataset.samples)
    assert all_exist(dataset)
    assert all_exist(train)


def test_ucf101_classes_are_found_whatever_their_case(tmp_path: Path) -> None:
    layouts.ucf101(tmp_path)
    folder = tmp_path / "UCF-101" / "HandstandPushups"
    folder.rename(folder.with_name("HandStandPushups"))
    lists = tmp_path / "ucfTrainTestlist" / "testlist01.txt"
    lists.write_text(lists.read_text().replace("HandstandPushups/", "HandStandPushups/"))
    dataset = open_dataset("ucf101", tmp_path)
    assert names(dataset)[-1] == "HandstandPushups"
    assert all_exist(dataset)
    dataset = open_dataset("ucf101", tmp_path, "2")  # its list has the other spelling
    assert all_exist(dataset)


def test_hmdb51_reads_every_class_of_a_split(tmp_path: Path) -> None:
    layouts.hmdb51(tmp_path)
    tested = [open_dataset("hmdb51", tmp_path, n) for n in ("1", "2", "3")]
    # Three videos per class have the uses 0, 1 and 2 in turn: each is a test video of one split.
    assert [names(dataset) for dataset in tested] == [list(layouts.HMDB51)] * 3
    assert len({s.id for dataset in tested for s in dataset.samples}) == 3 * len(layouts.HMDB51)
    assert all(all_exist(dataset) for dataset in tested)
    assert len(open_dataset("hmdb51", tmp_path, "train1").samples) == 3


@pytest.mark.parametrize("flat", [False, True])
def test_epic_kitchens_has_segments_with_a_verb_and_a_noun(tmp_path: Path, flat: bool) -> None:
    dataset = open_dataset("epic100", layouts.epic100(tmp_path, flat))
    first, second = dataset.samples
    assert dataset.heads == ("verb", "noun")
    assert names(dataset, "verb", 0)[0] == "take"
    assert names(dataset, "noun", 1)[0] == "plate"
    assert (first.id, first.start, first.end) == ("P01_11_0", 0.0, 1.89)
    assert (second.start, second.end) == (62.5, 3604.25)
    assert second.labels == (7, 4)
    assert dataset.metric == "action top-1"
    assert "2 samples from 1 video" in dataset.summary
    assert all_exist(dataset)


def test_activitynet_has_whole_videos_with_all_their_labels(tmp_path: Path) -> None:
    dataset = open_dataset("activitynet", layouts.activitynet(tmp_path))
    listed = {s.id: [dataset.classes["action"][n] for n in s.labels] for s in dataset.samples}
    assert listed == {
        "sJFgo9H6zNo": ["Drinking coffee"],
        "V1zhqaGFY2A": ["Applying sunscreen", "Drinking coffee"],
    }
    assert all_exist(dataset)
    assert len(open_dataset("activitynet", tmp_path, "test").samples) == 1


def test_hacs_takes_its_class_names_from_the_annotation(tmp_path: Path) -> None:
    dataset = open_dataset("hacs", layouts.hacs(tmp_path))
    assert dataset.classes["action"] == ("Cheese rolling", "Zumba of another kind")
    assert [s.labels for s in dataset.samples] == [(0, 1)]
    assert dataset.samples[0].path == tmp_path / "Cheese_rolling" / "v_-aa.mp4"
    assert all_exist(dataset)


def test_moments_in_time_opens_as_downloaded(tmp_path: Path) -> None:
    dataset = open_dataset("mit", layouts.moments(tmp_path))
    assert names(dataset) == list(layouts.MOMENTS)
    assert [s.labels[0] for s in dataset.samples] == [0, 1, 2]
    assert all_exist(dataset)


def test_diving48_opens_as_downloaded(tmp_path: Path) -> None:
    dataset = open_dataset("diving48", layouts.diving48(tmp_path))
    assert dataset.split == "test"
    assert names(dataset) == ["Back+15som+05Twis+FREE", "Back+15som+15Twis+FREE"]
    assert all_exist(dataset)


def test_a_known_dataset_opens_as_class_folders(tmp_path: Path) -> None:
    layouts.video(tmp_path / "val" / "massaging_person's_head" / "a b.mp4")
    layouts.video(tmp_path / "val" / "testifying" / "c.mp4")
    dataset = open_dataset("k400", tmp_path)
    assert names(dataset) == ["massaging person's head", "testifying"]
    assert dataset.split == "validation"
    assert all_exist(dataset)


# --- finding the data folder --------------------------------------------------------------------


def test_a_name_is_looked_up_in_vt_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layouts.ssv2(tmp_path / "ssv2")
    monkeypatch.setenv("VT_DATA", str(tmp_path))
    assert len(open_dataset("sthv2").samples) == 3


def test_without_a_data_folder_the_error_says_what_is_expected_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VT_DATA", raising=False)
    with pytest.raises(DataError, match=r"\$VT_DATA/ssv2.*not set.*validation\.json.*--data-root"):
        open_dataset("ssv2")
    monkeypatch.setenv("VT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"{tmp_path}/ssv2 does not exist"):
        open_dataset("ssv2")
    with pytest.raises(DataError, match=r"validation.json"):
        open_dataset("ssv2", tmp_path)


def test_a_missing_split_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    layouts.kinetics(tmp_path)
    with pytest.raises(DataError, match="only validation was found"):
        open_dataset("k400", tmp_path, "train")
    with pytest.raises(DataError, match="no split '4'; it has 1, 2, 3"):
        open_dataset("ucf101", tmp_path, "4")


def test_missing_paths_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="check the path") as caught:
        open_dataset(tmp_path / "no.csv")
    assert caught.value.exit_code == 4
    with pytest.raises(UsageError, match="did you mean k400"):
        open_dataset("k40")
    with pytest.raises(UsageError, match="choose from manifest"):
        open_dataset("k400", tmp_path, format="yaml")
    with pytest.raises(InputError, match="data folder"):
        open_dataset("k400", tmp_path / "nowhere")


# --- by folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    ["ssv2", "ssv1", "jester", "ucf101", "hmdb51", "epic100", "activitynet", "hacs", "moments",
     "diving48"],
)  # fmt: skip
def test_a_folder_with_official_files_is_recognized(tmp_path: Path, layout: str) -> None:
    root = getattr(layouts, layout)(tmp_path / "some folder")
    by_name = open_dataset({"moments": "mit"}.get(layout, layout), root)
    assert open_dataset(root) == by_name


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    dataset = open_dataset(layouts.class_folders(tmp_path / "pets"))
    assert dataset.name == "pets"
    assert dataset.classes == {"action": ("cat", "dog")}
    found = [(s.id, s.labels) for s in dataset.samples]
    assert found == [
        ("cat/felix", (0,)),
        ("cat/tom & co #1.mp4", (0,)),
        ("dog/more/fido.AVI", (1,)),
        ("dog/rex.mp4", (1,)),
    ]
    assert all_exist(dataset)
    assert dataset.samples[0].path.is_dir()


def test_hugging_face_split_folders_share_their_classes(tmp_path: Path) -> None:
    root = layouts.videofolder(tmp_path)
    assert list_splits(root) == ("train", "validation")
    dataset = open_dataset(root)
    assert dataset.split == "validation"
    assert dataset.classes == {"action": ("cat", "dog")}
    assert [(s.id, s.labels) for s in dataset.samples] == [("valid/dog/lassie.mp4", (1,))]
    train = open_dataset(root, split="training")
    assert {s.id for s in train.samples} == {"train/cat/tom & co #1.mp4", "train/dog/rex.mp4"}
    assert all_exist(train)


def test_hugging_face_metadata_in_split_folders(tmp_path: Path) -> None:
    root = layouts.metadata_folder(tmp_path)
    dataset = open_dataset(root)
    assert dataset.split == "test"
    assert [(s.id, s.labels) for s in dataset.samples] == [("test/c.mp4", (1,))]
    assert dataset.classes == {"action": ("cat", "dog")}
    assert all_exist(open_dataset(root, split="train"))


def test_classes_named_like_splits_are_refused_without_a_format(tmp_path: Path) -> None:
    layouts.video(tmp_path / "train" / "cat" / "a.mp4")
    layouts.video(tmp_path / "bus" / "b.mp4")
    with pytest.raises(DataError, match=r"huggingface.*class-folders.*name one"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, format="class-folders")
    assert dataset.classes == {"action": ("bus", "train")}


def test_a_folder_of_pyslowfast_lists_has_their_splits(tmp_path: Path) -> None:
    for name, lines in (("train", ("a.mp4 0", "b.mp4 1")), ("val", ("c.mp4 1", "d.mp4 0"))):
        layouts.text(tmp_path / f"{name}.csv", *lines)
    assert list_splits(tmp_path) == ("train", "validation")
    dataset = open_dataset(tmp_path)
    assert dataset.split == "validation"
    assert [s.labels for s in dataset.samples] == [(1,), (0,)]
    with pytest.raises(DataError, match="no split 'test'; it has train, validation"):
        open_dataset(tmp_path, split="test")


def test_a_manifest_takes_precedence_over_class_folders(tmp_path: Path) -> None:
    layouts.class_folders(tmp_path)
    layouts.text(tmp_path / "manifest.csv", "path,label", "dog/rex.mp4,good dog")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == {"action": ("good dog",)}
    assert dataset.summary.startswith("manifest.csv: manifest csv")


def test_an_error_for_a_folder_without_a_dataset_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one folder of videos per class.*path,label"):
        open_dataset(tmp_path)
    for name in ("a.txt", "b.txt"):
        layouts.text(tmp_path / name, "x.mp4 0")
    with pytest.raises(DataError, match=r"2 files \(a.txt, b.txt"):
        open_dataset(tmp_path)


# --- by file ------------------------------------------------------------------------------------


def test_an_official_file_is_recognized_as_its_dataset(tmp_path: Path) -> None:
    layouts.jester(tmp_path)
    dataset = open_dataset(tmp_path / "jester-v1-validation.csv")
    assert (dataset.name, dataset.frame_rate, dataset.split) == ("jester", 12, "validation")
    assert all_exist(dataset)


def test_paths_of_official_files_start_above_the_annotation_folder(tmp_path: Path) -> None:
    layouts.ssv2(tmp_path)
    dataset = open_dataset(tmp_path / "labels" / "train.json")
    assert (dataset.name, dataset.split) == ("ssv2", "train")
    assert all_exist(dataset)
    with pytest.raises(DataError, match="only train was found"):
        open_dataset(tmp_path / "labels" / "train.json", split="test")


def test_root_is_where_relative_paths_start(tmp_path: Path) -> None:
    layouts.video(tmp_path / "videos" / "a.mp4")
    listed = layouts.text(tmp_path / "lists" / "mine.txt", "a.mp4 0")
    assert not all_exist(open_dataset(listed))
    assert all_exist(open_dataset(listed, tmp_path / "videos"))


def test_a_missing_video_keeps_its_listed_path(tmp_path: Path) -> None:
    layouts.ssv2(tmp_path)
    (tmp_path / "20bn-something-something-v2" / "42326.webm").unlink()
    dataset = open_dataset("ssv2", tmp_path)
    assert dataset.samples[1].path == tmp_path / "20bn-something-something-v2" / "42326.webm"
    assert [s.path.exists() for s in dataset.samples] == [True, False, True]


def test_urls_of_a_list_are_kept_and_files_are_found_by_theirs(tmp_path: Path) -> None:
    (tmp_path / "a b.mp4").touch()
    lines = ("path,label", "https://example.org/v/c.mp4,x", f"file://{tmp_path}/a%20b.mp4,y")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    dataset = open_dataset(tmp_path / "list.csv")
    paths = [sample.filename for sample in dataset.samples]
    assert paths == ["https://example.org/v/c.mp4", str(tmp_path / "a b.mp4")]
    assert dataset.samples[0].id == paths[0]
    with pytest.raises(DataError, match=r"such as https://example\.org/v/c\.mp4, and vt can check"):
        check_datasets([dataset])
    with pytest.raises(DataError, match="vt can train on files only; download them"):
        split_train_val(tmp_path / "list.csv")


def test_another_extension_is_found_unless_it_is_ambiguous(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv", "b.webm", "c.txt"):
        layouts.video(tmp_path / name)
    listed = layouts.text(tmp_path / "list.txt", "a.mp4 0", "b.mp4 1", "c.mp4 0", "a 1")
    paths = [s.path.name for s in open_dataset(listed).samples]
    assert paths == ["a.mkv", "b.mp4", "c.mp4", "a.mkv"]


@pytest.mark.parametrize("listed", ["a/x.mp4", "./a/x.mp4", "a//x.mp4", "b/../a/x.mp4", "a/x.avi"])
@pytest.mark.parametrize("here", [False, True])
def test_a_video_is_found_however_its_path_is_written(
    listed: str, here: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.mp4").touch()
    (tmp_path / "list.csv").write_text(f"path,label\n{listed},run\n")
    monkeypatch.chdir(tmp_path)
    root = Path(".") if here else tmp_path
    dataset = open_dataset(root / "list.csv")
    assert [sample.path for sample in dataset.samples] == [root / "a" / "x.mp4"]
    assert gc.isenabled()


def test_the_summary_says_how_the_annotation_was_read(tmp_path: Path) -> None:
    listed = layouts.text(tmp_path / "val.csv", *(f"{n}.mp4,{n % 4}" for n in range(1200)))
    assert open_dataset(listed).summary == (
        "val.csv: PySlowFast csv 'path label', separator ',', labels 0-based, "
        "4 unnamed classes, 1,200 samples"
    )
    layouts.ucf101(tmp_path)
    assert open_dataset("ucf101", tmp_path).summary == (
        "testlist01.txt: UCF101 list, split 1, labels 1-based as its class list shows, "
        "101 classes, 4 samples"
    )


def test_paths_of_a_list_in_a_labels_folder_start_at_that_folder(tmp_path: Path) -> None:
    layouts.video(tmp_path / "labels" / "a.mp4")
    assert all_exist(open_dataset(layouts.text(tmp_path / "labels" / "mine.txt", "a.mp4 0")))


def test_a_path_named_like_a_known_dataset_does_not_take_its_name(tmp_path: Path) -> None:
    assert open_dataset(layouts.class_folders(tmp_path / "UCF-101")).name == "UCF-101 (by path)"
    listed = layouts.text(tmp_path / "k400.csv", "a.mp4,0", "b.mp4,3")
    assert open_dataset(listed).name == "k400 (by path)"


def test_videos_with_unique_names_are_found_in_any_folder_through_links(tmp_path: Path) -> None:
    root = layouts.kinetics(tmp_path / "data")
    moved = tmp_path / "disk"
    (root / "val").rename(moved)
    for _, id_, start, end in layouts.KINETICS[:1]:
        layouts.video(moved / f"{id_.lower()}_{start:06d}_{end:06d}.mp4")  # another video
    (root / "part 1").symlink_to(moved)
    (moved / "again").symlink_to(root)  # a link loop
    dataset = open_dataset("k400", root)
    assert all_exist(dataset)
    assert [s.path.stem for s in dataset.samples] == [s.id for s in dataset.samples]


def test_splits_are_listed_without_reading_videos(tmp_path: Path) -> None:
    assert list_splits("ucf101", layouts.ucf101(tmp_path / "a"))[:3] == ("1", "2", "3")
    assert list_splits(layouts.ssv2(tmp_path / "b")) == ("train", "validation", "test")
    assert list_splits(layouts.class_folders(tmp_path / "c")) == ()
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no annotation of it was found"):
        list_splits("ssv2", tmp_path / "empty")


def test_a_single_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a video.*`vt predict`"):
        open_dataset(layouts.video(tmp_path / "a.mp4"))


# --- numbers of a named dataset -----------------------------------------------------------------


def k400_list(root: Path, *lines: str) -> Path:
    layouts.text(root / "val.csv", *lines)
    return root


def test_numbers_of_a_named_dataset_get_the_names_of_the_catalog(tmp_path: Path) -> None:
    dataset = open_dataset("k400", k400_list(tmp_path, "a.mp4,0", "b.mp4,399"))
    assert names(dataset) == [load_labels("k400")[0], load_labels("k400")[399]]
    assert "in the order of k400 (k400.uniformerv2 is also in use)" in dataset.summary


def test_a_named_dataset_may_have_lists_of_training_code(tmp_path: Path) -> None:
    layouts.text(tmp_path / "val.csv", "74225 156 140", "78687 40 41")
    layouts.video(tmp_path / "20bn-something-something-v2" / "74225.webm")
    layouts.frames(tmp_path / "78687")
    dataset = open_dataset("ssv2", tmp_path)
    assert names(dataset) == [load_labels("ssv2")[140], load_labels("ssv2")[41]]
    assert all_exist(dataset)


@pytest.mark.parametrize("order", ["k400", "k400.uniformerv2"])
def test_class_folders_in_a_list_determine_its_class_order(tmp_path: Path, order: str) -> None:
    lines = [f"val/{n.replace(' ', '_')}/{i}.mp4,{i}" for i, n in enumerate(load_labels(order))]
    dataset = open_dataset("k400", k400_list(tmp_path, *lines))
    assert dataset.classes["action"] == load_labels(order)
    assert f"in the order of {order} as the folder names show" in dataset.summary


def test_numbers_that_contradict_the_folders_are_refused(tmp_path: Path) -> None:
    lines = [f"{name}/x.mp4,{(i + 7) % 400}" for i, name in enumerate(load_labels("k400"))]
    with pytest.raises(DataError, match="fits no known class order"):
        open_dataset("k400", k400_list(tmp_path, *lines))


def test_a_number_outside_the_classes_of_a_named_dataset_is_refused_with_its_line(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match=r"val.csv, line 2: label 400 .* 0 to 399"):
        open_dataset("k400", k400_list(tmp_path, "a.mp4,0", "b.mp4,400"))
    with pytest.raises(DataError, match="appear to count from 1"):
        open_dataset("k400", k400_list(tmp_path, "a.mp4,1", "b.mp4,400"))
