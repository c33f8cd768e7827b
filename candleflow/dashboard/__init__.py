"""The page: PostgreSQL's candles in the browser, by Streamlit and Plotly."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "dashboard",
        "the page (as streamlit run dashboard.py)",
        f"{__name__}.process:run",
    ),
)
