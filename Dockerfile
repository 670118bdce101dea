# The site's one image: web server, workers and commands differ only in what they run.
#
#   docker build -t stagecraft .
#   docker build -t stagecraft --build-arg TORCH_INDEX_URL=… .   # torch from an index that offers CPU builds: smaller

ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS build
# Where torch comes from; without it, from where pip takes everything else.
ARG TORCH_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/venv
WORKDIR /build
COPY requirements.lock pyproject.toml ./
# torch first and by itself: pulled in by another package it resolves to another build.
RUN /opt/venv/bin/pip install ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} \
        "$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' requirements.lock)"
# What runs, at the versions of the lock, and nothing of what only tests and lints.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], *project['optional-dependencies']['data'], sep='\n')" > run.txt \
    && /opt/venv/bin/pip install --constraint requirements.lock --requirement run.txt

FROM python:${PYTHON_VERSION}-slim
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
