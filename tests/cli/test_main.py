from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

import comir_search
from comir_search import cli
from comir_search.errors import ComirSearchError

EXECUTABLE = Path(sys.executable).with_name("comir-search")


@pytest.fixture
def only_command(monkeypatch):
    """Make the command have one subcommand, ``work``, that calls the given function."""

    def install(run, **attributes):
        module = SimpleNamespace(
            HELP="do work", __doc__="Do work.", add_arguments=_add_nothing, run=run, **attributes
        )
        monkeypatch.setattr(cli, "_command_modules", lambda: [("work", module)])

    return install


def _add_nothing(parser: ArgumentParser) -> None:
    pass


def _raiser(error: BaseException):
    def run(args: Namespace) -> int:
        raise error

    return run


def test_the_installed_command_prints_its_version():
    done = subprocess.run([EXECUTABLE, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"comir-search {comir_search.__version__}\n"


def test_without_a_subcommand_it_prints_help(command):
    answer = command()
    assert answer.code == 0
    assert "search" in answer.out and answer.err == ""


def test_every_subcommand_is_listed(command):
    listed = command("--help").out
    missing = [name for name in cli.COMMANDS if not re.search(rf"^ +{name}(\s|$)", listed, re.MULTILINE)]
    assert missing == []


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["--nonsense"], ["index"], ["index", "a.tif", "--device", "abacus"]]
)
def test_wrong_usage_is_2(command, arguments):
    answer = command(*arguments)
    assert answer.code == 2
    assert answer.err.startswith("usage: ") and "Traceback" not in answer.err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "half"])
def test_a_pixel_size_is_a_number_above_zero(command, value):
    answer = command("index", "a.tif", "--index", "b", f"--pixel-size={value}")
    assert answer.code == 2
    assert f"{value!r} is not a number above zero" in answer.err


def test_a_stated_failure_is_one_sentence_and_1(command, only_command):
    only_command(_raiser(ComirSearchError("a.tif is empty; copy it again.")))
    answer = command("work")
    assert (answer.code, answer.err, answer.out) == (1, "a.tif is empty; copy it again.\n", "")


def test_a_refusal_of_the_system_is_one_sentence_and_1(command, only_command):
    only_command(_raiser(PermissionError(13, "Permission denied", "a.tif")))
    answer = command("work")
    assert (answer.code, answer.err) == (1, "a.tif: Permission denied.\n")


def test_a_bug_is_one_sentence_that_asks_for_a_report(command, only_command):
    only_command(_raiser(ValueError("two\nlines")))
    answer = command("work")
    assert answer.code == 1
    assert (
        answer.err
        == "Unexpected failure (ValueError: two lines); please report it with what --debug prints.\n"
    )


@pytest.mark.parametrize("arguments", [["--debug", "work"], ["work", "--debug"]])
def test_debug_shows_the_traceback(command, only_command, arguments):
    only_command(_raiser(ComirSearchError("a.tif is empty")))
    with pytest.raises(ComirSearchError):
        command(*arguments)


def test_ctrl_c_is_one_sentence_and_130(command, only_command):
    only_command(_raiser(KeyboardInterrupt()), STOPPED="Stopped; go on later.")
    answer = command("work")
    assert (answer.code, answer.err) == (130, "Stopped; go on later.\n")


def test_a_reader_that_goes_away_is_no_failure():
    code = (
        "import sys; from types import SimpleNamespace; import comir_search.cli as cli\n"
        "run = lambda args: [print('x' * 80) for _ in range(100_000)] and 0\n"
        "module = SimpleNamespace(HELP='h', __doc__='', add_arguments=lambda parser: None, run=run)\n"
        "cli._command_modules = lambda: [('work', module)]\n"
        "sys.exit(cli.main(['work']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=30) == 141
    process.stderr.close()


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to another process")
def test_ctrl_c_while_the_engine_loads_is_one_sentence(tmp_path):
    """Python is interrupted at its worst moment: in the middle of an import."""
    slow = tmp_path / "slow.py"
    slow.write_text("import time; print('loading', flush=True); time.sleep(30)")
    code = (
        "import sys; from types import SimpleNamespace; import comir_search.cli as cli\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "run = lambda args: __import__('slow') and 0\n"
        "module = SimpleNamespace(HELP='h', __doc__='', add_arguments=lambda parser: None, run=run)\n"
        "cli._command_modules = lambda: [('work', module)]\n"
        "sys.exit(cli.main(['work']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "loading\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "Stopped; nothing was left half-written.\n")


def test_threads_wait_without_spinning_unless_told_otherwise(run_python):
    code = """
import os, sys
{}
from comir_search.cli import main
main(["info"])
print(os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""
    assert run_python(code.format("")).endswith("PASSIVE False\n")
    told = "os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'"
    assert run_python(code.format(told)).endswith("ACTIVE False\n")


RUN_CLOSED = """
import sys
import comir_search.cli as cli
from comir_search.cli.progress import show
from comir_search.progress import Tick
from types import SimpleNamespace

def work():
    yield Tick("working", 0, 2, note="a note")
    open({written!r}, "w").write("kept")
    return 0

def run(args):
    print("result")
    {body}
    return show(work())

module = SimpleNamespace(HELP="h", __doc__="", add_arguments=lambda parser: None, run=run)
cli._command_modules = lambda: [("work", module)]
sys.exit(cli.main({arguments}))
"""


@pytest.mark.skipif(os.name == "nt", reason="a shell of Windows closes no stream")
@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize(
    ("body", "arguments", "code"),
    [
        ("pass", ["work"], 0),
        ("raise cli.ComirSearchError('no')", ["work"], 1),
        ("raise KeyboardInterrupt", ["work"], 130),
        ("pass", ["--help"], 0),
        ("pass", [], 0),
        ("pass", ["nonsense"], 2),
    ],
)
def test_closed_streams_change_no_answer(tmp_path, closed, body, arguments, code):
    written = tmp_path / "written.txt"
    script = tmp_path / "script.py"
    script.write_text(RUN_CLOSED.format(written=str(written), body=body, arguments=arguments))
    redirections = " ".join(f"{number}>&-" for number in closed)
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} {script} {redirections}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr + done.stdout and "AttributeError" not in done.stderr + done.stdout
    if 2 in closed:
        assert "no" not in done.stdout.split()  # a complaint is no result
    if code == 0 and arguments == ["work"]:
        assert written.read_text() == "kept"  # and nothing that was printed


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_device_is_a_stated_failure(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(RUN_CLOSED.format(written=str(tmp_path / "w"), body="pass", arguments=["work"]))
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} {script} > /dev/full"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_of_both_streams_that_goes_away_is_no_failure(tmp_path):
    script = tmp_path / "script.py"
    body = "print('x' * 80 * 100_000); sys.stdout.flush()"
    script.write_text(RUN_CLOSED.format(written=str(tmp_path / "w"), body=body, arguments=["work"]))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=60) == 141
