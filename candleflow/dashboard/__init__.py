"""The web page: candles from PostgreSQL, drawn with Streamlit and Plotly."""

from candleflow.command import Command

COMMANDS = (
    Command(
        "dashboard",
        "serve the web page (as streamlit run dashboard.py)",
        f"{__name__}.process:run",
    ),
)
