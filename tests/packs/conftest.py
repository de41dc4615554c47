def pytest_ignore_collect(collection_path, config):
    """Without --pack there is nothing to test, but the page."""
    names_packs = collection_path.name in ("test_packs.py", "test_guidance_packs.py")
    return True if names_packs and not config.getoption("--pack") else None
