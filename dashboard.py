"""The page: ``streamlit run dashboard.py``, then http://localhost:8501."""

import streamlit as st
from starlette.middleware import Middleware

from candleflow.screen.caching import KeepVersioned
from candleflow.services import dashboard, dashboard_health

app = st.App(
    dashboard.PAGE,
    lifespan=dashboard.stopped_well,
    routes=dashboard_health.routes(dashboard.ask_store),
    middleware=[Middleware(KeepVersioned)],
)
