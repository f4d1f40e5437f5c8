#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_bundle
short_description: Images of containers in files, for hosts without a registry
version_added: 0.1.0
description:
  - Writes images of an Engine to archives with checksums, and loads such archives into an Engine.
  - One archive holds one image with all its tags. An archive is checked before anything of it is loaded, and the image
    is checked afterwards.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: partial
    details:
      - Nothing is pulled, written or loaded. With O(state=described) images that would be pulled are an error.
  diff_mode:
    support: none
  idempotent:
    support: full
options:
  state:
    description:
      - V(described) tells which images O(images) are, V(saved) writes O(entry) to O(path).
      - V(compared) tells what of O(manifest) the Engine lacks, V(loaded) loads O(entry) from O(path).
    type: str
    choices: [described, saved, compared, loaded]
    required: true
  images:
    description:
      - References with a tag.
    type: list
    elements: str
    default: []
  pull:
    description:
      - Whether images that the Engine does not have are pulled.
    type: bool
    default: true
  timeout:
    description:
      - Seconds that each pull may take.
    type: int
    default: 1800
  compression:
    description:
      - How archives are compressed. V(zstd) needs the program of that name here and where they are loaded; it is
        several times faster.
    type: str
    choices: [gzip, zstd]
    default: gzip
  manifest:
    description:
      - The entries of a bundle. With O(state=described), those of one that exists; what is in it need not be written
        again.
    type: list
    elements: dict
    default: []
  entry:
    description:
      - One entry, as O(state=described) or O(state=compared) returns it.
    type: dict
  path:
    description:
      - The archive. Its directory must exist; the archive gets the directory's owner.
    type: path
"""

EXAMPLES = r"""
- name: What does this host lack?
  multibase.supabase.image_bundle:
    state: compared
    manifest: "{{ lookup('ansible.builtin.file', 'bundle/manifest.json') | from_json }}"
  register: compared
"""

RETURN = r"""
results:
  description:
    - With V(described), all images, each with V(file) and whether it is V(new). With V(saved) and V(loaded), the entry.
    - With V(compared), the entries that the Engine lacks.
  returned: success
  type: list
  elements: dict
elsewhere:
  description: With V(compared), the tags that stand for another image in the Engine.
  returned: success
  type: list
  elements: dict
architecture:
  description: With V(compared), the architecture of the Engine.
  returned: success
  type: str
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _images
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError


def described(params, check_mode):
    """Return all images as entries, and whether one was pulled."""
    pulled = False
    if params["pull"] and not check_mode:
        for reference in sorted({_images.normalised(text) for text in params["images"]}):
            if _images.inspect(reference) is None:
                _images.pull(reference, params["timeout"])
                pulled = True
    results = []
    for entry in _images.describe(params["images"]):
        known = _images.reusable(entry, params["manifest"], params["compression"])
        name = _images.archive_name(entry, params["compression"])
        results.append(dict(known, new=False) if known else dict(entry, file=name, new=True))
    return {"changed": pulled, "results": results}


def saved(params, check_mode):
    """Write one archive."""
    entry = dict(params["entry"])
    path = params["path"]
    if not check_mode:
        entry.update(_images.save(entry, path, params["compression"]))
        owner = os.stat(os.path.dirname(path))
        os.chown(path, owner.st_uid, owner.st_gid)
    entry.pop("new", None)
    return {"changed": True, "results": [entry]}


def compared(params, check_mode):
    """Return what the Engine lacks."""
    missing, elsewhere = _images.compare(params["manifest"])
    return {
        "changed": False,
        "results": missing,
        "elsewhere": elsewhere,
        "architecture": _images.architecture(),
    }


def loaded(params, check_mode):
    """Load one archive."""
    if not check_mode:
        _images.load(params["entry"], params["path"])
    return {"changed": True, "results": [params["entry"]]}


ACTIONS = {"described": described, "saved": saved, "compared": compared, "loaded": loaded}


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": sorted(ACTIONS), "required": True},
            "images": {"type": "list", "elements": "str", "default": []},
            "pull": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 1800},
            "compression": {"type": "str", "choices": ["gzip", "zstd"], "default": "gzip"},
            "manifest": {"type": "list", "elements": "dict", "default": []},
            "entry": {"type": "dict"},
            "path": {"type": "path"},
        },
        required_if=[("state", "saved", ["entry", "path"]), ("state", "loaded", ["entry", "path"])],
        supports_check_mode=True,
    )
    try:
        result = ACTIONS[module.params["state"]](module.params, module.check_mode)
    except MultibaseError as error:
        module.fail_json(msg=str(error), results=[])
    except (KeyError, TypeError) as error:
        module.fail_json(msg="an entry is no entry of a bundle: {0}".format(error), results=[])
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or "host", error.strerror or error), results=[])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
