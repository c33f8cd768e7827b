"""The script that Streamlit runs for every viewer and every change of a control."""

from candleflow.dashboard import page

page.show()
