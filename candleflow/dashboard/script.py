"""What Streamlit runs for every viewer and every change of a control."""

from candleflow.dashboard import process as dashboard

dashboard.page()
