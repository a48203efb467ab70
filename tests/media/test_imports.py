import subprocess
import sys


def test_importing_media_loads_no_media_library() -> None:
    """PyAV, numpy and Pillow are an extra: they come in with the first frame that needs them."""
    code = (
        "import sys, pkgutil, importlib, rtcfoci.media as m\n"
        "names = [i.name for i in pkgutil.iter_modules(m.__path__)]\n"
        "[importlib.import_module(f'rtcfoci.media.{n}') for n in names]\n"
        "print(len(names), *sorted({'av', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *heavy = done.stdout.split()
    assert int(count) >= 15
    assert heavy == []
