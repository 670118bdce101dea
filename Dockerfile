# The site's one image: web server, workers and commands differ only in what they run.
#
#   docker build -t stagecraft .
#   docker build -t stagecraft --build-arg TORCH_INDEX_URL=… .   # torch from an index that offers CPU builds: smaller

# By digest, so that a build tomorrow is this one's; `make images` moves it on.
ARG PYTHON_IMAGE=python:3.11-slim@sha256:9c900dea9e8fb7e16277c179b555cc72d29a352dbc33cff48ad5a0412fd5bfc7

FROM ${PYTHON_IMAGE} AS build
# Where torch comes from; without it, from where pip takes everything else.
ARG TORCH_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
WORKDIR /build
# What runs, at the versions and hashes of the lock, and nothing of what only tests and lints.
COPY requirements-run.lock ./
RUN /opt/venv/bin/pip install --no-deps --require-hashes --requirement requirements-run.lock
# torch by itself, in the build that was asked for: a hash would name one build. What it needs is there by now.
RUN /opt/venv/bin/pip install ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} \
        "$(sed -n 's/^# \(torch==[^ ;]*\).*/\1/p' requirements-run.lock)"

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home stagecraft \
    && install --directory --owner stagecraft --group stagecraft --mode 0700 /data
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 DATA_DIR=/data
WORKDIR /app
COPY manage.py ./
COPY trainer trainer
COPY webapp webapp
COPY templates templates
COPY static static
RUN python -m compileall -q trainer webapp
USER stagecraft
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["python", "-m", "webapp.ops.web", "--host", "0.0.0.0", "--port", "8000"]
