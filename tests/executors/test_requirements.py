"""What a model's requirements.txt may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_engine.domain.errors import ModelLoadFailed
from inference_engine.infra.executors.requirements import check_requirements

HASH = "sha256:" + "0" * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "outside-1.0-py3-none-any.whl").touch()
    (tmp_path / "model" / "link-1.0-py3-none-any.whl").symlink_to(tmp_path / "outside-1.0-py3-none-any.whl")
    return tmp_path / "model" / "requirements.txt"


def test_packages_and_archives_beside_it_pass(file: Path) -> None:
    file.write_text(
        "# a comment with https://example.org\n"
        "text-unidecode==1.3  # why\n"
        "requests[socks] >= 2, < 3 ; python_version > '3.8'\n"
        "./mine-2.0-py3-none-any.whl[extra]\n"
        f"plain==1 \\\n    --hash={HASH} \\\n    --hash={HASH}\n"
        "--only-binary :all:\n--pre\n-r more.txt\n-cmore.txt\n--constraint=more.txt\n\n"
    )
    (file.parent / "more.txt").write_text("numpy\n-r requirements.txt\n")  # a circle ends
    check_requirements(file)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--index-url https://example.org/simple", "operator's own configuration"),
        ("--extra-index-url=https://example.org/simple", "operator's own configuration"),
        ("-i https://example.org/simple", "operator's own configuration"),
        ("-fhttps://example.org", "operator's own configuration"),
        ("--find-links /tmp", "operator's own configuration"),
        ("--trusted-host example.org", "operator's own configuration"),
        ("-e .", "operator's own configuration"),
        ("git+https://example.org/x.git", "a URL is not taken"),
        ("x @ https://example.org/x.whl", "a URL is not taken"),
        ("x@file:///etc/x.whl", "a URL is not taken"),
        ("file:../outside-1.0-py3-none-any.whl", "a URL is not taken"),
        ("HTTPS://example.org/x.whl", "a URL is not taken"),
        ("../outside-1.0-py3-none-any.whl", "beside it"),
        ("./link-1.0-py3-none-any.whl", "beside it"),
        ("/etc/x.whl", "beside it"),
        ("~/x", "beside it"),
        ("./", "beside it"),
        ("-r ../other.txt", "beside it"),
        ("-r/etc/passwd", "beside it"),
        ("--requirement=https://example.org/r.txt", "beside it"),
        ("x --global-option=--evil", "only --hash"),
        ("${HOME}/x.whl", "variables are not filled in"),
        ("x \\\n@ https://example.org/x.whl", "a URL is not taken"),
        ("x @ fi\\\nle:y.whl", "a URL is not taken"),
    ],
)
def test_where_packages_come_from_is_not_for_it_to_say(file: Path, line: str, why: str) -> None:
    file.write_text(f"first\n{line}\n")
    with pytest.raises(ModelLoadFailed, match=rf"requirements\.txt:2: .* is refused: .*{why}") as caught:
        check_requirements(file)
    assert caught.value.param == "requirements.txt"


def test_a_file_that_is_included_is_looked_at(file: Path) -> None:
    file.write_text("-r more.txt\n")
    (file.parent / "more.txt").write_text("-i https://example.org/simple\n")
    with pytest.raises(ModelLoadFailed, match=r"more\.txt:1: .* is refused"):
        check_requirements(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelLoadFailed, match="is not text"):
        check_requirements(file)
    file.write_text("# coding: utf-7\n")
    with pytest.raises(ModelLoadFailed, match="must be UTF-8"):
        check_requirements(file)
    file.write_bytes(b"\xef\xbb\xbf-e .\n")
    with pytest.raises(ModelLoadFailed, match="is refused"):
        check_requirements(file)
