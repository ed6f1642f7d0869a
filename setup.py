"""Only names the CMake project; everything else stands in pyproject.toml."""

from setuptools import setup

setup(cmake_source_dir=".")
