"""Colours and fonts of the page; fonts are the reader's own."""

from gradio import Theme, themes

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def make_theme() -> Theme:
    """Gradio's base theme in teal, without a font from elsewhere."""
    theme: Theme = themes.Base(
        primary_hue=themes.colors.teal,
        secondary_hue=themes.colors.teal,
        neutral_hue=themes.colors.slate,
        font=list(SANS),
        font_mono=list(MONO),
        radius_size=themes.sizes.radius_md,
        text_size=themes.sizes.text_md,
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_title_text_weight="600",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
    )
    return theme
