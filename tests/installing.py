"""Packages with a plugin, installed as pip installs them: files, and a folder that describes them."""

import shutil

SOURCE = '''
from hl7core import hookimpl


class Plugin:
    """A plugin that says which version of its code it is."""

    VERSION = "{version}"

    @hookimpl
    def on_session_complete(self, session):
        """Nothing to do."""
'''


def install(site, name, version="1.0", source=SOURCE):
    """Install version ``version`` of the package ``hl7core-NAME`` with the plugin ``name`` into the folder ``site``."""
    uninstall(site, name)
    package = site / f"hl7core_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(source.replace("{version}", version))
    _describe(site, name, version, [f"hl7core_{name}/__init__.py"])


def install_editable(site, name, project, version="1.0"):
    """Install it so that its code stays in ``project``, as ``pip install -e`` does: a .pth file names that folder."""
    package = project / "src" / f"hl7core_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(SOURCE.replace("{version}", version))
    site.mkdir(exist_ok=True)
    (site / f"_hl7core_{name}.pth").write_text(f"{project / 'src'}\n")
    _describe(site, name, version, [f"_hl7core_{name}.pth"])


def uninstall(site, name):
    """Remove the package again."""
    shutil.rmtree(site / f"hl7core_{name}", ignore_errors=True)
    for folder in site.glob(f"hl7core_{name}-*.dist-info"):
        shutil.rmtree(folder)


def _describe(site, name, version, files):
    info = site / f"hl7core_{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: hl7core-{name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[hl7core]\n{name} = hl7core_{name}:Plugin\n")
    (info / "RECORD").write_text("".join(f"{file},sha256={version},\n" for file in files))
