"""The folder stores: nothing half-done is ever seen, tenants are apart, limits hold, a torn journal is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inference_engine.domain.errors import NotFound
from inference_engine.domain.files import StoredFile, new_id
from inference_engine.domain.jobs import Job
from inference_engine.infra.document_store import FolderDocumentStore
from inference_engine.infra.file_store import FolderFileStore
from inference_engine.infra.job_store import FolderJobStore
from inference_engine.infra.tenant_folders import tenant_folder
from inference_engine.testing import FakeClock

STRANGE = ("..", "a/b", "../default", "Default", "", "x" * 500, "\0", ".draft-x", "=abc")


def stored(store: FolderFileStore, tenant: str = "default", content: bytes = b"abc", created: int = 1) -> StoredFile:
    draft = store.draft(tenant)
    draft.write(content)
    file = StoredFile(new_id("file-"), "name", "batch", len(content), created)
    draft.commit(file)
    return file


def test_tenants_never_share_a_folder(tmp_path: Path) -> None:
    folders = {tenant_folder(tmp_path, tenant) for tenant in ("default", *STRANGE)}
    assert len(folders) == len(STRANGE) + 1
    assert all(folder.parent == tmp_path for folder in folders)


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", ["default", *STRANGE])
def test_files_come_back_after_a_restart(tmp_path: Path, tenant: str) -> None:
    files = [stored(FolderFileStore(tmp_path), tenant, bytes([number]), number) for number in range(3)]
    again = FolderFileStore(tmp_path)
    assert again.list(tenant) == files
    assert again.list("somebody else") == []
    with again.open(tenant, files[1].id) as stream:
        assert stream.read() == b"\1"
    with pytest.raises(NotFound):
        again.get("somebody else", files[1].id)
    again.delete(tenant, files[1].id)
    assert FolderFileStore(tmp_path).list(tenant) == [files[0], files[2]]


def test_a_draft_is_nowhere_until_it_is_whole(tmp_path: Path) -> None:
    store = FolderFileStore(tmp_path)
    draft = store.draft("default")
    draft.write(b"half")
    assert store.list("default") == FolderFileStore(tmp_path).list("default") == []
    draft.discard()
    draft.discard()
    assert not list(tmp_path.glob("files/default/*"))


def test_what_a_kill_leaves_is_tidied(tmp_path: Path) -> None:
    store = FolderFileStore(tmp_path)
    kept = stored(store)
    lost = store.draft("default")
    lost.write(b"half")
    (tmp_path / "files/default/.gone-x").mkdir()
    FolderFileStore(tmp_path).tidy()
    assert [path.name for path in tmp_path.glob("files/default/*")] == [kept.id]
    lost.discard()


def test_the_same_file_twice_is_there_once(tmp_path: Path) -> None:
    store = FolderFileStore(tmp_path)
    first = stored(store, content=b"first")
    draft = store.draft("default")
    draft.write(b"second")
    draft.commit(first)
    with store.open("default", first.id) as stream:
        assert stream.read() == b"first"
    assert len(list(tmp_path.glob("files/default/*"))) == 1


def test_a_file_that_is_read_while_it_is_deleted(tmp_path: Path) -> None:
    store = FolderFileStore(tmp_path)
    file = stored(store)
    with store.open("default", file.id) as stream:
        store.delete("default", file.id)
        assert stream.read() == b"abc"


def test_meta_data_that_was_tampered_with_is_left_out(tmp_path: Path) -> None:
    files = [stored(FolderFileStore(tmp_path)) for _ in range(3)]
    (tmp_path / "files/default" / files[0].id / "meta.json").write_text("{")
    meta = tmp_path / "files/default" / files[1].id / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "id": "../../x"}))
    assert FolderFileStore(tmp_path).list("default") == [files[2]]


@pytest.mark.parametrize("id", ["", ".", "..", "../default", "file-x", "file-" + "0" * 31, "FILE-" + "0" * 32, "\0"])
def test_ids_that_were_never_given_out(tmp_path: Path, id: str) -> None:
    store = FolderFileStore(tmp_path)
    documents = FolderDocumentStore(tmp_path, "responses", 1000, 1000, FakeClock())
    stored(store)
    for call in (store.get, store.open, store.delete, documents.get, documents.delete):
        with pytest.raises(NotFound):
            call("default", id)


# -- documents -----------------------------------------------------------------------------------------------------


def test_documents_survive_and_the_least_used_make_room(tmp_path: Path) -> None:
    clock = FakeClock()

    def opened() -> FolderDocumentStore:
        return FolderDocumentStore(tmp_path, "responses", max_bytes=30, ttl_s=1000, now=clock)

    store = opened()
    ids = [new_id("resp_") for _ in range(4)]
    for id in ids[:3]:
        store.put("default", id, b"x" * 10)
        clock.advance(1)
    assert store.get("default", ids[0]) == b"x" * 10
    clock.advance(1)
    store = opened()
    store.put("default", ids[3], b"y" * 10)
    with pytest.raises(NotFound):
        store.get("default", ids[1])
    assert [store.get("default", id)[:1] for id in (ids[0], ids[2], ids[3])] == [b"x", b"x", b"y"]
    assert len(list((tmp_path / "responses/default").iterdir())) == 3
    with pytest.raises(NotFound):
        store.get("other", ids[0])


def test_documents_grow_too_old(tmp_path: Path) -> None:
    clock = FakeClock()
    store = FolderDocumentStore(tmp_path, "responses", 1000, ttl_s=10, now=clock)
    id = new_id("resp_")
    store.put("default", id, b"1")
    store.put("default", id, b"22")
    clock.advance(9)
    assert store.get("default", id) == b"22"
    clock.advance(9)
    assert store.get("default", id) == b"22"
    clock.advance(11)
    with pytest.raises(NotFound, match="too old"):
        store.get("default", id)
    assert not list((tmp_path / "responses/default").iterdir())


# -- jobs ----------------------------------------------------------------------------------------------------------


def job(tenant: str = "default") -> Job:
    return Job(new_id("batch_"), tenant, "key", "/x", "file-1", new_id("file-"), new_id("file-"), "24h", 1, 86401)


def test_jobs_come_back(tmp_path: Path) -> None:
    store = FolderJobStore(tmp_path)
    jobs = [job(), job("..")]
    for one in jobs:
        store.save(one)
    (tmp_path / "jobs/default/batch_broken").mkdir()
    (tmp_path / "jobs/default/batch_broken/job.json").write_text("{")
    assert {one.id for one in FolderJobStore(tmp_path).load()} == {one.id for one in jobs}
    store.delete(jobs[0])
    assert store.load() == [jobs[1]]


def test_only_one_server_has_the_jobs(tmp_path: Path) -> None:
    first, second = FolderJobStore(tmp_path), FolderJobStore(tmp_path)
    assert first.claim()
    assert not second.claim()
    first.release()
    assert second.claim()
    second.release()


def test_a_journal_is_read_again_in_the_order_of_lines(tmp_path: Path) -> None:
    store, one = FolderJobStore(tmp_path), job()
    journal = store.journal(one)
    for line in (3, 1, 2, 3):
        journal.append(line, line != 2, b"result %d" % line)
    journal.close()
    journal = store.journal(one)
    assert journal.counts == (2, 1)
    assert list(journal.results(True)) == [b"result 1", b"result 3"]
    assert list(journal.results(False)) == [b"result 2"]
    assert [journal.has(line) for line in range(1, 5)] == [True, True, True, False]
    journal.seal()
    journal.append(4, True, b"late")
    assert not journal.has(4)
    journal.close()
    store.drop_journal(one)
    store.drop_journal(one)


@pytest.mark.parametrize(
    "torn", [b"7", b"7 O 0000", b"7 O deadbeef result\n", b"7 O 00000000 res", bytes(512), b"x" * 100_000, b"\n\n"]
)
def test_a_torn_journal_is_cut_back_to_what_is_whole(tmp_path: Path, torn: bytes) -> None:
    store, one = FolderJobStore(tmp_path), job()
    journal = store.journal(one)
    journal.append(1, True, b"first")
    journal.append(2, True, b"second")
    journal.close()
    (file,) = tmp_path.glob("jobs/default/*/journal")
    whole = file.read_bytes()
    with file.open("ab") as stream:
        stream.write(torn)
    for cut in (whole + torn, whole[:-3]):
        file.write_bytes(cut)
        journal = store.journal(one)
        expected = [b"first", b"second"] if cut != whole[:-3] else [b"first"]
        assert list(journal.results(True)) == expected
        journal.append(3, True, b"third")
        assert list(journal.results(True)) == [*expected, b"third"]
        journal.close()
