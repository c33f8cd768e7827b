"""The page: ``streamlit run dashboard.py``, then http://localhost:8501."""

import streamlit as st
from starlette.middleware import Middleware

from candleflow.dashboard import health as dashboard_health
from candleflow.dashboard import process as dashboard
from candleflow.dashboard.caching import KeepVersioned

app = st.App(
    dashboard.PAGE,
    lifespan=dashboard.stopped_well,
    routes=dashboard_health.routes(dashboard.ask_store),
    middleware=[Middleware(KeepVersioned)],
)
