"""Only the opener imports scapy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hl7core_plugins.scapy_source import source

HERE = Path(source.__file__).parent


class TestWhoImportsScapy:
    def test_neither_the_parent_nor_the_reader_of_packets_does(self):
        script = (
            "import sys\n"
            "from hl7core import SourceRequest\n"
            "from hl7core_plugins.scapy_source import ScapySource, child\n"
            "plugin = ScapySource(); plugin.list_interfaces(); plugin.open_source(SourceRequest())\n"
            "print([name for name in sys.modules if name.split('.')[0] == 'scapy'])\n"
        )
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "[]"

    def test_the_reader_loads_neither_pydantic_nor_pluggy(self):
        script = "import sys, hl7core_plugins.scapy_source.child\nprint({'pydantic', 'pluggy'} & set(sys.modules))\n"
        told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "set()"

    def test_one_module_imports_it_and_its_sniffer_thread_is_used_nowhere(self):
        texts = {path.name: path.read_text() for path in HERE.glob("*.py")}
        assert [name for name, text in texts.items() if "import scapy" in text or "from scapy" in text] == ["opener.py"]
        assert not [name for name, text in texts.items() if "AsyncSniffer" in text or "scapy.all" in text]
