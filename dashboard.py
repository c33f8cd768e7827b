"""The web page. Start it with ``streamlit run dashboard.py``, then open http://localhost:8501."""

import streamlit as st
from starlette.middleware import Middleware

from candleflow.dashboard import process

app = st.App(
    process.PAGE,
    lifespan=process.exit_with_status_zero,
    routes=process.HEALTH,
    middleware=[Middleware(process.CacheVersionedFiles)],
)
