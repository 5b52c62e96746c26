"""The ground every room stands on: errors, tensor files, the manifest, goldens, publishing."""
