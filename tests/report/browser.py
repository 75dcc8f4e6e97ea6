"""The browser that the report's page is tested in: Chromium on the PATH, or the one that SIMKIT_CHROMIUM names."""

import os
import shutil

CHROMIUM = os.environ.get("SIMKIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or (
    shutil.which("google-chrome"))
