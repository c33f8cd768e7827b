"""The page: ``streamlit run dashboard.py``, then http://localhost:8501."""

import streamlit as st
from starlette.middleware import Middleware

from candleflow.screen.caching import KeepVersioned
from candleflow.services import dashboard

app = st.App(dashboard.PAGE, lifespan=dashboard.stopped_well, middleware=[Middleware(KeepVersioned)])
