"""What Streamlit runs for every viewer and every change of a control."""

from candleflow.services import dashboard

dashboard.page()
