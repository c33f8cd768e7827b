"""The page: ``streamlit run dashboard.py``, then http://localhost:8501."""

from candleflow.services import dashboard

dashboard.page()
