"""Names of folders and records in the user's cache folder."""

from typing import Final

BUNDLES: Final = "bundles"
BUNDLE_RECORD: Final = "made_from.json"
VARIANTS: Final = "variants"
VARIANT_RECORD: Final = "variant.json"
