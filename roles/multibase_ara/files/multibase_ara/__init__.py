# SPDX-License-Identifier: GPL-3.0-or-later
"""What Multibase adds to ARA on a host; it runs in ARA's own environment, as its user."""
