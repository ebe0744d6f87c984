"""The demo in a real browser: Debian's chromium, driven by Playwright. `make browser` installs it."""
