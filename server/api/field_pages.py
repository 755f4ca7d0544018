"""The pages of the documentation that say what becomes of each field; ``python -m server.api.field_pages`` renews them."""

from __future__ import annotations

from pathlib import Path

from server.api.chat_fields import CHAT_FIELDS
from server.api.image_fields import EDIT_FIELDS, GENERATION_FIELDS
from server.api.picture_fields import PICTURE_FIELDS, TOOL_FIELDS
from server.api.response_fields import RESPONSE_FIELDS

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
TABLES = (CHAT_FIELDS, RESPONSE_FIELDS, GENERATION_FIELDS, EDIT_FIELDS, PICTURE_FIELDS, TOOL_FIELDS)

if __name__ == "__main__":
    for table in TABLES:
        (FOLDER / f"{table.page_name}.md").write_text(table.page(), encoding="utf-8")
