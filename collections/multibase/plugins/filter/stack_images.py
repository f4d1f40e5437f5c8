# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: stack_images
short_description: Which images declared instances need
version_added: 0.1.0
description:
  - Returns the references of all images that the services of declared instances run, sorted, each once. That is the
    release of each instance with its image set, its registry, the images that it names itself and its services.
author:
  - Multibase contributors (@multibase)
positional: _input
options:
  _input:
    description:
      - Instances as P(multibase.supabase.instance#module) takes them.
    type: list
    elements: dict
    required: true
  defaults:
    description:
      - Options that lie under those of each instance.
    type: dict
    default: {}
  blueprints:
    description:
      - Named sets of options.
    type: raw
    default: {}
  template_root:
    description:
      - Directory with one directory for each release.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show them
  ansible.builtin.debug:
    msg: "{{ multibase_instances | multibase.supabase.stack_images(template_root='compose_templates') }}"
"""

RETURN = r"""
_value:
  description:
    - References with tags.
  type: list
  elements: str
"""

import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

from ansible.errors import AnsibleFilterError

from ansible_collections.multibase.supabase.plugins.action.instance import as_list, check_options, read_release
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._release import DEFINITION_FILE, release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._spec import Layers, build_from, without_unset


def stack_images(
    instances: Sequence[Mapping[str, Any]],
    defaults: Optional[Mapping[str, Any]] = None,
    blueprints: Any = None,
    template_root: str = "",
) -> List[str]:
    """Return the images that instances need. Raises AnsibleFilterError with all that is wrong with the declarations."""
    sets, problems = as_list(blueprints or {})
    items, typed_defaults, typed_blueprints, messages = check_options(list(instances), defaults or {}, sets)
    problems += messages
    found: Set[str] = set()
    try:
        releases = {
            name: release_from_bundle(name, read_release(os.path.join(template_root, name)))
            for name in sorted(os.listdir(template_root))
            if os.path.isfile(os.path.join(template_root, name, DEFINITION_FILE))
        }
        layers = Layers(
            without_unset(typed_defaults), {name: without_unset(under) for name, under in typed_blueprints.items()}
        )
        for item in items:
            if item.get("state") == "absent":
                continue
            spec, messages = build_from(without_unset(item), layers, releases)
            if spec is None:
                problems += ["instance {0}: {1}".format(item.get("name"), message) for message in messages]
                continue
            images = releases[spec.options["release"]].images.get(spec.options["image_set"], {})
            found |= {spec.images.get(service) or images[service] for service in spec.services}
    except (MultibaseError, OSError, KeyError) as error:
        problems.append(str(error))
    if problems:
        raise AnsibleFilterError("stack_images: " + "\n".join(dict.fromkeys(problems)))
    return sorted(found)


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return them by name."""
        return {"stack_images": stack_images}
